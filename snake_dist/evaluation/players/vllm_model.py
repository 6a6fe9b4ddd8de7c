"""A model decoded by vLLM, on machines with vLLM and a GPU.

Prompts, stop tokens and greedy choice are those of `LanguageModelPlayer`; the kernels differ, so that near-ties may be
decided otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from snake_dist.checkpoint.adapter_base import SavedAdapter
from snake_dist.data.templates import Template, encode_prompt, stop_ids
from snake_dist.evaluation.players.protocol import Answer
from snake_dist.game.board import State
from snake_dist.model import base
from snake_dist.styles.catalog import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_RANKS = (8, 16, 32, 64, 128, 256)
"""The values that vLLM allows for its largest LoRA rank."""


def uses_vllm(adapter: SavedAdapter) -> bool:
    """Return whether vLLM plays this adapter: vLLM and a GPU are here, there is one rank, the adapter is plain."""
    if importlib.util.find_spec("vllm") is None or os.environ.get("WORLD_SIZE", "1") != "1":
        return False
    config = json.loads((adapter.directory / "adapter_config.json").read_text(encoding="utf-8"))
    is_plain = config["peft_type"] == "LORA" and config.get("bias", "none") == "none"
    is_plain = is_plain and not config.get("use_dora") and not config.get("modules_to_save")
    is_plain = is_plain and isinstance(config.get("init_lora_weights", True), bool)  # others may change the base
    is_known = is_plain and _rank(config) <= MAX_RANKS[-1] and not adapter.quantization
    return is_known and has_gpu()


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@dataclass(frozen=True)
class VllmPlayer:
    """As `LanguageModelPlayer`, with one engine for an adapter and its base."""

    engine: Any
    """A `vllm.LLM`."""
    tokenizer: PreTrainedTokenizerBase
    style: str
    max_new_tokens: int
    max_length: int
    """Most tokens of prompt and reply together; the reply to a prompt that leaves no room is empty."""
    stops: tuple[int, ...]
    template: Template = "plain"
    lora: Any = None
    """A `vllm.lora.request.LoRARequest`; None: the base."""

    def replies(self, states: Sequence[State]) -> list[str]:
        return [answer.text for answer in self.answers(states)]

    def answers(self, states: Sequence[State]) -> list[Answer]:
        shown = [render_prompt(state, self.style) for state in states]
        prompts = [encode_prompt(self.tokenizer, prompt, self.template) for prompt in shown]
        fitting = [i for i, ids in enumerate(prompts) if len(ids) + self.max_new_tokens <= self.max_length]
        answers = [Answer("", prompt, 0) for prompt in shown]
        if not fitting:
            return answers
        from vllm import SamplingParams

        from snake_dist.model.decoding import before_stop

        outputs = self.engine.generate(
            [{"prompt_token_ids": prompts[i]} for i in fitting],
            SamplingParams(temperature=0.0, max_tokens=self.max_new_tokens, stop_token_ids=list(self.stops)),
            lora_request=self.lora,
            use_tqdm=False,
        )
        for i, output in zip(fitting, outputs, strict=True):
            ids = before_stop(list(output.outputs[0].token_ids), self.stops)
            text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            answers[i] = Answer(text, shown[i], min(len(ids) + 1, self.max_new_tokens))
        return answers


def load_vllm_players(adapter: SavedAdapter) -> dict[str, VllmPlayer]:
    """Load {"base": ..., "adapter": ...} on one engine from disk. Raises InputError if adapter or base is missing."""
    import vllm
    from transformers import AutoConfig, GenerationConfig
    from vllm.lora.request import LoRARequest

    location, remote = adapter.location, adapter.trust_remote_code
    tokenizer, style, template = adapter.load_tokenizer(), str(adapter.style), cast("Template", adapter.template)
    config = json.loads((adapter.directory / "adapter_config.json").read_text(encoding="utf-8"))
    try:
        configured = GenerationConfig.from_pretrained(location).eos_token_id
    except OSError:  # a model without generation_config.json
        configured = AutoConfig.from_pretrained(location, trust_remote_code=remote).eos_token_id
    stops = tuple(stop_ids(configured, tokenizer, template))
    max_length = base.model_shape(location, trust_remote_code=remote).max_positions
    engine = vllm.LLM(
        model=location,
        tokenizer=adapter.tokenizer_location,
        trust_remote_code=remote,
        dtype=adapter.dtype,
        enable_lora=True,
        max_lora_rank=next(rank for rank in MAX_RANKS if rank >= _rank(config)),
        enable_prefix_caching=True,
        generation_config="vllm",  # not the model's own: temperature and penalties are ours
        seed=0,
    )
    longest = max_length if max_length is not None else 1 << 30
    lora = LoRARequest("adapter", 1, str(adapter.directory))
    return {
        name: VllmPlayer(engine, tokenizer, style, adapter.max_new_tokens, longest, stops, template, chosen)
        for name, chosen in (("base", None), ("adapter", lora))
    }


def _rank(config: dict[str, Any]) -> int:
    """Return the largest rank of an adapter's layers."""
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])
