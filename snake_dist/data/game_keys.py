"""Groups lines into games, and holds whole games out: two lines of one game never stand on both sides.

Neighbouring positions of one game differ in one cell, so a split by line would judge the model on what it has
seen. Memory goes with the number of games, never with the number of lines.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from snake_dist.data.records import Record
from snake_dist.errors import InputError
from snake_dist.styles.catalog import read_prompt

UNKNOWN_BLOCK_LINES = 200
"""Lines of an unknown dialect without game ids that stand for one game."""


def game_keys(records: Iterable[Record], root: str | Path = "") -> Iterator[tuple[Record, str]]:
    """Yield each record with the key of its game, in order, one line at a time.

    A line with a `game_id` belongs to that game of its file, wherever it stands; so do its mirrored copies.
    For lines without one a new game begins where the prompt shows a new game (`game.text.starts_game`). Where
    the prompt is of no known dialect, every `UNKNOWN_BLOCK_LINES` lines in a row stand for a game. Both need
    the file's lines in the order of play. Keys name the file relative to `root` (see `common_root`), so that
    they stay the same when the data moves.
    """
    file, start, num_lines = None, 0, 0
    relative = ""
    for record in records:
        if record.file != file:
            file, start, num_lines = record.file, 0, 0
            relative = Path(os.path.relpath(Path(file).resolve(), root)).as_posix() if root else file
        if record.game is not None:
            yield record, f"{relative}#{record.game!r}"
            continue
        read = read_prompt(record.prompt)
        is_full = read is None and num_lines >= UNKNOWN_BLOCK_LINES
        if start == 0 or is_full or (read is not None and read[1].starts_game):
            start, num_lines = record.line, 0
        num_lines += 1
        yield record, f"{relative}@{start}"


def common_root(paths: Iterable[Path]) -> Path:
    """The deepest directory above all files: the root for `game_keys`."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))


def held_out_games(keys: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """The games to hold out: of n distinct keys the ceil(fraction * n) with the smallest hash, n - 1 at most.

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
    """A 64-bit number, uniform over keys and the same everywhere (Python's own `hash` differs by process)."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
