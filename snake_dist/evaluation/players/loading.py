"""Load language models from disk as players: a base model by itself, an adapter beside its base."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.checkpoint.saved_adapter import load_adapter, read_metadata
from snake_dist.data.templates import Template, check_template
from snake_dist.evaluation.players.language_model import LanguageModelPlayer
from snake_dist.evaluation.players.protocol import Player
from snake_dist.evaluation.players.vllm_model import load_vllm_players, uses_vllm
from snake_dist.files import sha256_of
from snake_dist.model import base
from snake_dist.styles.catalog import check_style

if TYPE_CHECKING:
    import torch

BATCH_SIZE = {"cpu": 256, "cuda": 1024}
"""Most positions decoded at once: beyond it a CPU core's matrix products gain little. An H200 decoded 6,180 tokens a
second of 256 prompts, and 13,185 of 1,024. Fewer where the cache has no room (`SlotDecoder`)."""
BASE_MAX_NEW_TOKENS = 64
"""Length of a reply of a base model by itself; beside an adapter it has the adapter's limit."""


def load_player(adapter_dir: str | Path) -> LanguageModelPlayer:
    """Return the adapter in this directory on its base model, ready to answer positions. Raises InputError."""
    return load_model_players(Path(adapter_dir), base.own_device())["adapter"]


def load_base_player(base_model: str, style: str, template: Template = "plain") -> LanguageModelPlayer:
    """Return a model without an adapter. Raises InputError if the model cannot be found or lacks the template."""
    check_style(style)
    location = base.find_base(base.ModelConfig(base_model))
    dtype = base.choose_dtype("auto", {})
    tokenizer = base.load_tokenizer(location)
    check_template(tokenizer, template)
    model = base.load_base(location, dtype, device=base.own_device())
    return LanguageModelPlayer(
        model, tokenizer, style, BASE_MAX_NEW_TOKENS, BATCH_SIZE[model.device.type], template=template
    )


def load_model_players(
    adapter_dir: Path, device: torch.device, *, trust_remote_code: bool = False, plain_layers: bool = False
) -> dict[str, LanguageModelPlayer]:
    """Return {"base": ..., "adapter": ...}: one base model in memory, with the adapter off and on.

    The base is the one that the adapter was trained on: for QLoRA the one in 4 bits. Everything comes from disk, as
    in a fresh process. With `plain_layers` they are PEFT's own, which ZeRO-3 can shard. Raises InputError if adapter
    or base cannot be found.
    """
    from snake_dist.model.dropout import use_shared_dropout
    from snake_dist.model.fast_path import use_fast_ops

    metadata = read_metadata(adapter_dir)
    location = base.find_base(base.ModelConfig(metadata["base_model"], trust_remote_code=trust_remote_code))
    quantization = metadata.get("quantization")
    plain = base.load_base(
        location, metadata["dtype"], trust_remote_code=trust_remote_code, quantization=quantization, device=device
    )
    model = load_adapter(plain, adapter_dir)
    if not plain_layers:
        use_shared_dropout(model)  # the fast layers' kind; there is none in eval mode
        use_fast_ops(model)
    tokenizer = base.load_tokenizer(str(adapter_dir))
    style, limit, template = metadata["style"], metadata["max_completion_tokens"], metadata.get("template", "plain")
    return {
        name: LanguageModelPlayer(model, tokenizer, style, limit, BATCH_SIZE[device.type], name == "adapter", template)
        for name in ("base", "adapter")
    }


def load_fastest(adapter_dir: Path, name: str) -> Player:
    """Return `base` or `adapter` of an adapter's directory, on vLLM where vLLM can play it."""
    return _pair(adapter_dir, uses_vllm(adapter_dir))[name]


def load_in_process(adapter_dir: Path, name: str) -> LanguageModelPlayer:
    """Return `base` or `adapter` of an adapter's directory, with the model in this process."""
    player = _pair(adapter_dir, False)[name]
    assert isinstance(player, LanguageModelPlayer)
    return player


@lru_cache(maxsize=1)
def _pair(adapter_dir: Path, with_vllm: bool) -> Mapping[str, Player]:
    """Return an adapter and its base; one pair is in memory at a time."""
    return load_vllm_players(adapter_dir) if with_vllm else load_model_players(adapter_dir, base.own_device())


def adapter_identity(adapter_dir: Path) -> str:
    """Return the hash of the weights of a saved adapter, as game logs name it."""
    return f"adapter {sha256_of(adapter_dir / 'adapter_model.safetensors')[:16]}"
