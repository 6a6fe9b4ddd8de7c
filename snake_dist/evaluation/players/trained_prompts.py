"""The prompts that an adapter was trained on: a judge leaves their positions out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.checkpoint.saved_adapter import read_metadata, read_prompt_hashes
from snake_dist.data.tokenization import hash_prompt, is_among
from snake_dist.game.board import State
from snake_dist.styles.catalog import render_prompt

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TrainedPrompts:
    """The training prompts of an adapter, as hashes."""

    style: str
    hashes: np.ndarray
    """uint64, sorted: `hash_prompt` of every distinct training prompt."""

    def hold(self, state: State) -> bool:
        """Return whether the state's prompt is one of them."""
        return is_among(hash_prompt(render_prompt(state, self.style)), self.hashes)


def adapter_prompts(directory: Path) -> TrainedPrompts | None:
    """Return what a saved adapter was trained on; None if it did not keep that. Raises InputError for no adapter."""
    style, hashes = read_metadata(directory)["style"], read_prompt_hashes(directory)
    return None if hashes is None else TrainedPrompts(style, hashes)


def with_earlier_hashes(hashes: np.ndarray, init_adapter: str | None) -> np.ndarray | None:
    """Return the hashes of a run's training prompts (uint64, sorted) and those of the adapter it started from.

    None if that adapter did not keep its own.
    """
    import numpy as np

    if init_adapter is None:
        return hashes
    earlier = read_prompt_hashes(Path(init_adapter).expanduser())
    return None if earlier is None else np.union1d(hashes, earlier)
