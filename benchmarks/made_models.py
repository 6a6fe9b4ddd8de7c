"""Random models and random lines for `gpu.py`: nothing is read, and weights of 8B take seconds on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_LLAMA_3 = {"vocab_size": 128256, "rope_theta": 500000.0, "num_key_value_heads": 8, "num_attention_heads": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "0.13B": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
              "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "0.5B": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "1B": _LLAMA_3 | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
                      "tie_word_embeddings": True},
    "8B": _LLAMA_3 | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
}  # fmt: skip
"""LlamaConfigs: of SmolLM2-135M, of about Qwen2.5-0.5B, of Llama-3.2-1B and of Llama-3.1-8B."""


@dataclass(frozen=True)
class Lines:
    """The examples of a step."""

    num_examples: int
    prefix: int
    """Tokens with which all begin, as Snake prompts do; 0: none, and everything is trained."""
    shortest: int
    spread: int
    """Lengths go up to this many tokens above the shortest."""
    trained: int

    def example(self, index: int, vocab_size: int) -> tuple[np.ndarray, int]:
        """Return (token ids, number of prompt tokens) of example `index`."""
        draw = np.random.default_rng(index)
        length = self.shortest + (5 * index % (self.spread + 1))
        own = draw.integers(10, vocab_size, length - self.prefix)
        prefix = np.random.default_rng(0).integers(10, vocab_size, self.prefix)
        return np.concatenate([prefix, own]), max(0, length - self.trained)


SNAKE = Lines(num_examples=32, prefix=85, shortest=330, spread=40, trained=126)
"""Positions of 10x10 with a spoken line of thought: about 350 tokens, 126 of them trained."""
LONG = Lines(num_examples=2, prefix=0, shortest=4096, spread=0, trained=4096)
TINY = Lines(num_examples=4, prefix=20, shortest=40, spread=10, trained=12)


def device() -> Any:
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Return the most memory that PyTorch has had on the GPU, 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def made(shape: str, dtype: str = "bfloat16") -> Any:
    """Return a random model of this shape on the device.

    A tiny one is drawn on the host: its losses can be compared with those of a CPU, whose generator is another.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192)
    config.dtype = getattr(torch, dtype)
    with torch.device("cpu" if shape == "tiny" else device()):
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    return model.requires_grad_(False).to(device())


class MadeLines:
    """The part of a `TokenizedDataset` that training needs."""

    def __init__(self, lines: Lines, number: int, vocab_size: int) -> None:
        from snake_dist.data.packing import Example

        self.examples = [Example(*lines.example(i, vocab_size)) for i in range(number)]
        self.lengths = np.array([len(example.input_ids) for example in self.examples], dtype=np.int32)
        self.num_loss_tokens = np.array([example.num_loss_tokens for example in self.examples], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]
