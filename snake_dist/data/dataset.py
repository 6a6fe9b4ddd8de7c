"""The tokenized data set as training sees it: memory-mapped examples, split into training and held-out games."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from snake_dist.data.packing import Example
from snake_dist.data.records import resolve_paths
from snake_dist.data.splits import held_out_games
from snake_dist.data.tokenization import INDEX_DTYPE, tokenize
from snake_dist.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SEQUENCE_LENGTH = 1024


@dataclass(frozen=True)
class DataConfig:
    """What the model is trained on."""

    data: tuple[str, ...] = ()
    """JSONL files, directories or globs; default: tail-safe BFS games, generated on first use."""
    eval_data: tuple[str, ...] = ()
    """JSONL files, directories or globs to evaluate on; default: whole games held out of --data."""
    held_out_share: float = 0.05
    """Share of the games that is held out, if there is no --eval-data."""
    bad_lines: Literal["stop", "skip"] = "stop"
    """What a bad line does: stop the run with its file, line and reason, or be left out and counted."""
    sequence_length: int | None = None
    """Longest example in tokens, a longer one is a bad line; default: 1024, or what the model can take."""


class TokenizedDataset:
    """Examples by id, 0 <= id < len. Nothing is read before it is asked for."""

    def __init__(self, directory: Path) -> None:
        """Open what `tokenization.tokenize` wrote into `directory`."""
        self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text())
        self._tokens = np.memmap(directory / "tokens.bin", dtype=np.uint32, mode="r")
        self._index = np.memmap(directory / "index.bin", dtype=INDEX_DTYPE, mode="r")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, example: int) -> Example:
        start = self._index["end"][example - 1] if example else 0
        ids = self._tokens[start : self._index["end"][example]].astype(np.int64)
        return Example(ids, int(self._index["num_prompt_tokens"][example]))

    @property
    def fingerprint(self) -> str:
        """sha256 over all tokens, prompt lengths and games."""
        return self.meta["fingerprint"]

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [examples]: tokens of each example."""
        return np.diff(self._index["end"], prepend=0)

    @cached_property
    def num_loss_tokens(self) -> np.ndarray:
        """int64 [examples]: trained tokens of each example, as `Example.num_loss_tokens`."""
        return self.lengths - np.maximum(self._index["num_prompt_tokens"], 1)

    @cached_property
    def prompt_hashes(self) -> frozenset[int]:
        """`tokenization.hash_prompt` of every prompt."""
        return frozenset(self._index["prompt_hash"].tolist())

    def place(self, example: int) -> str:
        """file:line the example came from."""
        return f"{self.meta['files'][self._index['file'][example]]}:{self._index['line'][example]}"

    def all_examples(self) -> np.ndarray:
        """Every id."""
        return np.arange(len(self))

    def split(self, held_out_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of (training, held-out) examples, by whole games. See `splits.held_out_games`."""
        held_out = held_out_games(self.meta["games"], held_out_share, seed)
        is_held_out = np.array([game in held_out for game in self.meta["games"]])[self._index["game"]]
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)

    def not_longer_than(self, examples: np.ndarray, sequence_length: int, bad_lines: str) -> np.ndarray:
        """The ids among `examples` of at most so many tokens. Raises InputError for a longer one, unless
        `bad_lines` is "skip", and if none is left."""
        is_long = self.lengths[examples] > sequence_length
        if is_long.any() and bad_lines == "stop":
            first = int(examples[is_long][0])
            raise InputError(
                f"{self.place(first)}: {self.lengths[first]} tokens, more than --sequence-length {sequence_length} "
                f"({is_long.sum()} of {len(examples)} lines are; --bad-lines skip leaves them out)"
            )
        if is_long.all():
            raise InputError(f"no example has at most --sequence-length {sequence_length} tokens")
        return examples[~is_long]


def open_dataset(
    patterns: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    *,
    bad_lines: str,
    for_training: bool,
    cache: Path,
) -> TokenizedDataset:
    """The data set of these files, directories and globs, tokenized now if it is not in `cache` yet."""
    paths = resolve_paths(patterns)
    return TokenizedDataset(tokenize(paths, tokenizer, bad_lines=bad_lines, for_training=for_training, cache=cache))
