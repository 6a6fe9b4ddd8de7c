"""Find players by name: heuristics, base models, adapters on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.checkpoint.adapter import load_adapter, read_metadata
from snake_dist.errors import InputError
from snake_dist.evaluation.player import HeuristicPlayer, ModelPlayer, Player
from snake_dist.game.text import check_style
from snake_dist.heuristics.policies import POLICIES
from snake_dist.model import base

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 64
"""States decoded at once, at most."""
BASE_MAX_NEW_TOKENS = 64
"""A base model by itself may say so much; beside an adapter it may say as much as that one was taught to."""


def find_players(names: tuple[str, ...], base_model: str, style: str) -> tuple[dict[str, Player], int, str]:
    """({name: player}, grid size, mode) for `adapter DIR` (with its base), `base`, or a heuristic's name.

    Raises InputError naming the choices.
    """
    match names:
        case ("adapter", directory):
            metadata = read_metadata(Path(directory))
            players = load_model_players(Path(directory), base.device_for(0))
            return {**players}, metadata["grid_size"], metadata["mode"]
        case ("base",):
            return {"base": load_base_player(base_model, style)}, 10, "classic"
        case (name,) if name in POLICIES:
            return {name: HeuristicPlayer(POLICIES[name])}, 10, "classic"
    raise InputError(f"--player {' '.join(names)}: choose from adapter DIR, base, {', '.join(POLICIES)}")


def load_player(adapter_dir: str | Path) -> ModelPlayer:
    """The adapter in this directory on its base model, ready to answer positions. Raises InputError."""
    return load_model_players(Path(adapter_dir), base.device_for(0))["adapter"]


def load_base_player(base_model: str, style: str) -> ModelPlayer:
    """A model without any adapter. Raises InputError if it cannot be found."""
    check_style(style)
    location = base.find_base(base.ModelConfig(base_model))
    dtype = base.choose_dtype("auto", {})
    model = base.load_base(location, dtype).to(base.device_for(0))
    return ModelPlayer(model, base.load_tokenizer(location), style, BASE_MAX_NEW_TOKENS, BATCH_SIZE)


def load_model_players(
    adapter_dir: Path, device: torch.device, *, trust_remote_code: bool = False
) -> dict[str, ModelPlayer]:
    """{"base": ..., "adapter": ...}: one base model in memory, with the adapter off and on.

    Everything comes from disk, as in a fresh process. Raises InputError if adapter or base cannot be found.
    """
    metadata = read_metadata(adapter_dir)
    location = base.find_base(base.ModelConfig(metadata["base_model"], trust_remote_code=trust_remote_code))
    model = load_adapter(base.load_base(location, metadata["dtype"], trust_remote_code=trust_remote_code), adapter_dir)
    model.to(device)
    tokenizer = base.load_tokenizer(str(adapter_dir))
    style, limit = metadata["style"], metadata["max_completion_tokens"]
    return {
        name: ModelPlayer(model, tokenizer, style, limit, BATCH_SIZE, adapter=name == "adapter")
        for name in ("base", "adapter")
    }
