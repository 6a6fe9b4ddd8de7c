"""The examples that a run trains on and those it holds out: chosen once, block by block, and kept beside the tokens.

Whole games are held out: neighbouring positions of one game differ in one cell, so a split by line would judge the
model on what it has seen. The result is stored: every rank and every later run memory-maps it. So only the first start
depends on the number of lines, and none holds them in memory, only the keys of the games.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snake_dist.data.batching import shuffled
from snake_dist.data.dataset import TokenizedDataset
from snake_dist.errors import InputError
from snake_dist.files import new_directory

FORMAT_VERSION = 2
_BLOCK_ROWS = 1 << 16
_NO_EPOCH = 1 << 32
"""The epoch that seeds `draw`: no epoch of training has this number."""


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
    num_too_long: int
    """Examples left out because they have more tokens than the limit."""


NOTHING = Selection(np.empty(0, dtype="<i8"), 0, 0, 0, "0", 0)
"""No example at all."""


@dataclass(frozen=True)
class Split:
    """Whole games held out; see `held_out_games`."""

    held_out_share: float
    seed: int


def select(
    dataset: TokenizedDataset, sequence_length: int, bad_lines: str, split: Split | None = None
) -> tuple[Selection, ...]:
    """Return the examples of at most `sequence_length` tokens: all of them, or with a split (training, held-out).

    Raises InputError for a longer example unless `bad_lines` is "skip", for a part without any, and for a split that
    is impossible.
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


def held_out_games(keys: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """Return the games to hold out: of n distinct keys the ceil(fraction * n) with the smallest hash, n - 1 at most.

    A function of the set of keys, the fraction and the seed alone: not of order, process or platform. Games
    that are added or removed later move only the games at the edge. Raises InputError unless
    0 < fraction < 1, and for fewer than two games.
    """
    if not 0 < fraction < 1:
        raise InputError(f"held-out fraction {fraction} is not between 0 and 1")
    distinct = sorted(set(keys), key=lambda key: (game_hash(key, seed), key))
    if len(distinct) < 2:
        raise InputError(f"cannot hold out a game: the data has {len(distinct)}, at least 2 are needed")
    # 0.1 * 30 is a little over 3 in binary: without the margin the ceiling would be 4.
    wanted = math.ceil(fraction * len(distinct) - 1e-9)
    return frozenset(distinct[: min(max(wanted, 1), len(distinct) - 1)])


def game_hash(key: str, seed: int) -> int:
    """Return a 64-bit number, uniform over keys and the same everywhere (Python's own `hash` differs by process)."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def draw(dataset: TokenizedDataset, selection: Selection, num_examples: int, seed: int) -> Selection:
    """Return `num_examples` of the selection's examples; with one seed, a larger draw contains a smaller one.

    Raises InputError if the selection has fewer. The longest completion stays that of the whole selection.
    """
    if not 1 <= num_examples <= len(selection.ids):
        raise InputError(f"--max-examples {num_examples}: 1 to {len(selection.ids)}, the number of training examples")
    positions = shuffled(np.arange(num_examples), len(selection.ids), seed, _NO_EPOCH)
    ids = np.sort(selection.ids[positions]).astype("<i8")
    return Selection(
        ids,
        num_tokens=int(dataset.lengths[ids].sum()),
        num_loss_tokens=int(dataset.num_loss_tokens[ids].sum()),
        longest_completion=selection.longest_completion,
        digest=_digest(len(ids), hashlib.sha256(ids.tobytes())),
        num_too_long=selection.num_too_long,
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
    """A selection being written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._num_ids = self._num_long = self._num_tokens = self._num_loss_tokens = self._longest = 0
        self._first_long: int | None = None

    def add(self, start: int, rows: np.ndarray, is_mine: np.ndarray, is_long: np.ndarray) -> None:
        """Take index rows from example `start` on; `is_mine`: of this part, `is_long`: too long."""
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
        """Return the fields of the Selection except its ids. Raises InputError as `select` does."""
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
            "num_too_long": self._num_long,
        }
