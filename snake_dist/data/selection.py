"""Which examples a run trains on and which it holds out: chosen once, block by block, and kept beside the tokens.

Every rank and every later run maps the result. So no start but the first depends on the number of lines, and none
holds them in memory.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snake_dist.data.batching import shuffled
from snake_dist.data.dataset import TokenizedDataset
from snake_dist.data.game_keys import held_out_games
from snake_dist.errors import InputError
from snake_dist.files import new_directory

FORMAT_VERSION = 1
_BLOCK_ROWS = 1 << 16
_NO_EPOCH = 1 << 32
"""What is drawn has an order of its own."""


@dataclass(frozen=True)
class Selection:
    """Some examples of a data set."""

    ids: np.ndarray
    """int64, rising; mapped, not read."""
    num_tokens: int
    num_loss_tokens: int
    longest_completion: int
    """Trained tokens of the example that has most."""
    digest: str
    """Number of ids and the head of their sha256."""


@dataclass(frozen=True)
class Split:
    """Whole games held out; see `splits.held_out_games`."""

    held_out_share: float
    seed: int


def select(
    dataset: TokenizedDataset, sequence_length: int, bad_lines: str, split: Split | None = None
) -> tuple[Selection, ...]:
    """The examples of at most `sequence_length` tokens: all of them, or with a split (training, held-out).

    Raises InputError for a longer one unless `bad_lines` is "skip", if a part has none left, and for a split that
    cannot be.
    """
    described = [FORMAT_VERSION, sequence_length, bad_lines, split and asdict(split)]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    directory = dataset.directory / f"selection-{key}"
    if not directory.is_dir():
        with new_directory(directory, exist_ok=True) as temporary:
            _write(dataset, sequence_length, bad_lines, split, temporary)
    parts = json.loads((directory / "parts.json").read_text())
    return tuple(
        Selection(np.memmap(directory / f"{number}.bin", dtype="<i8", mode="r"), **part)
        for number, part in enumerate(parts)
    )


def draw(dataset: TokenizedDataset, selection: Selection, num_examples: int, seed: int) -> Selection:
    """So many of the selection's examples; with one seed, a larger draw holds a smaller one.

    Raises InputError if there are fewer. The longest completion stays that of the whole selection.
    """
    if not 1 <= num_examples <= len(selection.ids):
        raise InputError(f"--max-examples {num_examples}: 1 to {len(selection.ids)}, the training examples there are")
    positions = shuffled(np.arange(num_examples), len(selection.ids), seed, _NO_EPOCH)
    ids = np.sort(selection.ids[positions]).astype("<i8")
    return Selection(
        ids,
        num_tokens=int(dataset.lengths[ids].sum()),
        num_loss_tokens=int(dataset.num_loss_tokens[ids].sum()),
        longest_completion=selection.longest_completion,
        digest=_digest(len(ids), hashlib.sha256(ids.tobytes())),
    )


def _digest(num_ids: int, sha256: Any) -> str:
    return f"{num_ids} of sha256 {sha256.hexdigest()[:8]}"


def _write(
    dataset: TokenizedDataset, sequence_length: int, bad_lines: str, split: Split | None, directory: Path
) -> None:
    part_of_game = np.zeros(0, dtype=np.int8)
    if split is not None:
        games = dataset.games()
        held_out = held_out_games(games, split.held_out_share, split.seed)
        part_of_game = np.fromiter((game in held_out for game in games), dtype=np.int8, count=len(games))
    parts = [_Part(directory / f"{number}.bin") for number in range(1 if split is None else 2)]
    start = 0
    for rows in dataset.index_blocks(_BLOCK_ROWS):
        part_of_row = part_of_game[rows["game"]] if split is not None else np.zeros(len(rows), dtype=np.int8)
        is_long = rows["num_tokens"] > sequence_length
        for number, part in enumerate(parts):
            part.add(start, rows, part_of_row == number, is_long)
        start += len(rows)
    described = [part.close(dataset, sequence_length, bad_lines) for part in parts]
    (directory / "parts.json").write_text(json.dumps(described))


class _Part:
    """A selection that is being written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._num_ids = self._num_long = self._num_tokens = self._num_loss_tokens = self._longest = 0
        self._first_long: int | None = None

    def add(self, start: int, rows: np.ndarray, is_mine: np.ndarray, is_long: np.ndarray) -> None:
        """Index rows from example `start` on, and which of them are of this part and too long."""
        long = np.flatnonzero(is_mine & is_long)
        if len(long) and self._first_long is None:
            self._first_long = start + int(long[0])
        self._num_long += len(long)
        kept = np.flatnonzero(is_mine & ~is_long)
        if not len(kept):
            return
        ids = (kept + start).astype("<i8").tobytes()
        self._file.write(ids)
        self._digest.update(ids)
        self._num_ids += len(kept)
        self._num_tokens += int(rows["num_tokens"][kept].sum())
        loss_tokens = rows["num_loss_tokens"][kept]
        self._num_loss_tokens += int(loss_tokens.sum())
        self._longest = max(self._longest, int(loss_tokens.max()))

    def close(self, dataset: TokenizedDataset, sequence_length: int, bad_lines: str) -> dict[str, int | str]:
        """The fields of the Selection but its ids. Raises InputError for what `select` refuses."""
        self._file.close()
        if self._first_long is not None and bad_lines == "stop":
            first = self._first_long
            raise InputError(
                f"{dataset.place(first)}: {dataset.lengths[first]} tokens, more than --sequence-length "
                f"{sequence_length} ({self._num_long} of {self._num_ids + self._num_long} lines are; "
                "--bad-lines skip leaves them out)"
            )
        if not self._num_ids:
            raise InputError(f"no example has at most --sequence-length {sequence_length} tokens")
        return {
            "num_tokens": self._num_tokens,
            "num_loss_tokens": self._num_loss_tokens,
            "longest_completion": self._longest,
            "digest": _digest(self._num_ids, self._digest),
        }
