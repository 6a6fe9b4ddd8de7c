"""Kernels that a decoder layer launches on an accelerator, counted on meta tensors of true size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig

from snake_dist.data.packing import Example, pack
from snake_dist.model import adapters
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops
from tests.support.meta_step import meta_model

LLAMA_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
VIEWS = {
    "view", "_unsafe_view", "transpose", "t", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach",
    "alias", "split", "split_with_sizes", "as_strided", "unbind", "empty", "empty_like", "new_empty", "empty_strided",
    "_reshape_alias", "new_empty_strided", "narrow",
}  # fmt: skip
"""Operations that launch nothing."""


class Kernels(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return operation(*args, **kwargs or {})


def in_one_kernel(num_tensors: int) -> Any:
    """A stand-in for a fused function of `num_tensors` tensors and others: one kernel forward, one backward."""

    class OneKernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            ctx.num_others = len(args) - num_tensors
            found = torch._foreach_abs(list(args[:num_tensors]))
            return found[0] if num_tensors == 1 else tuple(found)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return (*torch._foreach_abs(list(grads)), *[None] * ctx.num_others)

    return OneKernel.apply


class Gate(torch.autograd.Function):
    """SwiGLU's product in one kernel forward, one backward."""

    @staticmethod
    def forward(_ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return gate * up

    @staticmethod
    def backward(_ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch._foreach_abs([grads[0], grads[0]]))


@contextmanager
def as_on_cuda(*, is_fused: bool) -> Iterator[None]:
    """Inside, meta tensors are computed as a CUDA device would; `is_fused`: as if Triton were there too."""
    rms_norm = in_one_kernel(1)
    kinds = {
        "snake_dist.model.attention.has_varlen": lambda _query: True,
        # PyTorch's own kernel on CUDA devices; on meta tensors it is taken apart.
        "torch.nn.functional.rms_norm": lambda x, _shape, weight, epsilon: rms_norm(x, weight, epsilon),
    }
    if is_fused:
        kinds["transformers.models.llama.modeling_llama.apply_rotary_pos_emb"] = in_one_kernel(2)
        kinds["transformers.models.llama.modeling_llama.LlamaMLP.forward"] = lambda mlp, x: mlp.down_proj(
            Gate.apply(mlp.gate_proj(x), mlp.up_proj(x))
        )
    with ExitStack() as stack:
        for name, kind in kinds.items():
            stack.enter_context(patch(name, kind))
        yield


def of_a_step(num_layers: int, num_examples: int, dropout: float, *, is_fused: bool) -> tuple[Counter[str], Any]:
    """Kernels of a forward and backward pass of Llama-3.2-1B with this many layers over a packed row, by operation."""
    config = LlamaConfig(**LLAMA_1B, num_hidden_layers=num_layers)
    model = meta_model(config, adapters.AdapterConfig(dropout=dropout), torch.bfloat16, fast=False)
    use_shared_dropout(model)
    with patch("torch.allclose", return_value=True):
        use_fast_ops(model)
    prefix = np.full(85, 7)
    rows = [np.concatenate([prefix, np.full(245 + 5 * (i % 9), i + 8)]) for i in range(num_examples)]
    batch = pack([Example(row.astype(np.int64), len(row) - 130) for row in rows]).to(torch.device("meta"))
    with Kernels() as kernels, as_on_cuda(is_fused=is_fused):
        logits = model(**batch.inputs, use_cache=False, logits_to_keep=batch.columns_C).logits
        logits.backward(torch.empty_like(logits))
    return kernels.counts, batch


def of_a_layer(num_examples: int, dropout: float, *, is_fused: bool) -> Counter[str]:
    """Kernels of one decoder layer, forward and backward."""
    two, one = (of_a_step(n, num_examples, dropout, is_fused=is_fused)[0] for n in (3, 2))
    return two - one
