"""Load language models from disk as players: a base model by itself, an adapter beside its base."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from snake_dist.checkpoint.adapter_base import AdapterOptions, SavedAdapter, describe_adapter
from snake_dist.checkpoint.saved_adapter import load_adapter
from snake_dist.data.templates import Template, check_template
from snake_dist.errors import InputError
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


def load_player(
    adapter_dir: str | Path,
    *,
    base_model: str | None = None,
    trust_remote_code: bool = False,
    style: str | None = None,
    template: Template | None = None,
) -> LanguageModelPlayer:
    """Return the adapter in this directory on its base model, ready to answer positions.

    `base_model`: where its base is now, if it was moved. `style` and `template`: those of an adapter whose files do not
    say them, since another program saved it. Raises InputError.
    """
    options = AdapterOptions(base_model, trust_remote_code, style, template)
    adapter = playable(describe_adapter(Path(adapter_dir), options))
    return load_model_players(adapter, base.own_device())["adapter"]


def playable(adapter: SavedAdapter) -> SavedAdapter:
    """Return the adapter. Raises InputError unless its style and template are known."""
    named = f"adapter {adapter.directory}"
    missing = [flag for flag, value in (("--style", adapter.style), ("--template", adapter.template)) if not value]
    if missing:
        raise InputError(f"{named}: to play it, say with {' and '.join(missing)} how its prompts were written")
    check_style(str(adapter.style))
    return adapter


def load_base_player(
    base_model: str, style: str, template: Template = "plain", *, trust_remote_code: bool = False
) -> LanguageModelPlayer:
    """Return a model without an adapter. Raises InputError if the model cannot be found or lacks the template."""
    check_style(style)
    location = base.find_base(base.ModelConfig(base_model, trust_remote_code=trust_remote_code))
    dtype = base.choose_dtype("auto", {})
    tokenizer = base.load_tokenizer(location, trust_remote_code=trust_remote_code)
    check_template(tokenizer, template)
    model = base.load_base(location, dtype, trust_remote_code=trust_remote_code, device=base.own_device())
    slots = BATCH_SIZE[model.device.type]
    return LanguageModelPlayer(model, tokenizer, style, BASE_MAX_NEW_TOKENS, slots, template=template)


def load_model_players(
    adapter: SavedAdapter, device: torch.device, *, plain_layers: bool = False
) -> dict[str, LanguageModelPlayer]:
    """Return {"base": ..., "adapter": ...}: one base model in memory, with the adapter off and on.

    The base is the one that the adapter was trained on: for QLoRA the one in 4 bits. Everything comes from disk, as
    in a fresh process. With `plain_layers` they are PEFT's own, which ZeRO-3 can shard. Raises InputError if style or
    template is not known, or the tokenizer cannot show the template.
    """
    from snake_dist.model.dropout import use_shared_dropout
    from snake_dist.model.fast_path import use_fast_ops

    style, template = str(playable(adapter).style), cast("Template", adapter.template)
    tokenizer = adapter.load_tokenizer()
    check_template(tokenizer, template)
    plain = base.load_base(
        adapter.location,
        adapter.dtype,
        trust_remote_code=adapter.trust_remote_code,
        quantization=adapter.quantization,
        device=device,
    )
    model = load_adapter(plain, adapter.directory)
    if not plain_layers:
        use_shared_dropout(model)  # the fast layers' kind; there is none in eval mode
        use_fast_ops(model)
    limit, slots = adapter.max_new_tokens, BATCH_SIZE[device.type]
    return {
        name: LanguageModelPlayer(model, tokenizer, style, limit, slots, name == "adapter", template)
        for name in ("base", "adapter")
    }


def load_fastest(adapter: SavedAdapter, name: str) -> Player:
    """Return `base` or `adapter` of a saved adapter, on vLLM where vLLM can play it."""
    return _pair(adapter, uses_vllm(adapter))[name]


def load_in_process(adapter: SavedAdapter, name: str) -> LanguageModelPlayer:
    """Return `base` or `adapter` of a saved adapter, with the model in this process."""
    player = _pair(adapter, False)[name]
    assert isinstance(player, LanguageModelPlayer)
    return player


@lru_cache(maxsize=1)
def _pair(adapter: SavedAdapter, with_vllm: bool) -> Mapping[str, Player]:
    """Return an adapter and its base; one pair is in memory at a time."""
    return load_vllm_players(adapter) if with_vllm else load_model_players(adapter, base.own_device())


def adapter_identity(adapter_dir: Path) -> str:
    """Return the hash of the weights of a saved adapter, as game logs name it."""
    return f"adapter {sha256_of(adapter_dir / 'adapter_model.safetensors')[:16]}"
