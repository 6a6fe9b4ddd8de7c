"""The game that each line belongs to, known while lines are tokenized one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from snake_dist.data.forms import PAIRS
from snake_dist.data.records import Record
from snake_dist.styles.catalog import read_prompt

UNKNOWN_BLOCK_LINES = 200
"""Lines without game ids, of prompts that no style writes, that stand for one game."""


def game_keys(records: Iterable[Record], root: Path) -> Iterator[tuple[Record, str]]:
    """Yield each record with the key of its game, in order, one line at a time.

    A line with a `game_id` belongs to that game of its file, wherever it stands; so do its mirrored copies.
    Without one, a game begins where the prompt shows a new game (`styles.catalog.read_prompt`), and among prompts that
    no style writes, every `UNKNOWN_BLOCK_LINES` lines in a row stand for a game. Both need the file's lines in the
    order of play. A line of another form than prompt and completion, with such a prompt, is a conversation: a game of
    its own. Keys name the file relative to `root` (see `common_root`), so that they stay the same when the data
    moves.
    """
    file, start, num_lines = None, 0, 0
    relative = ""
    for record in records:
        if record.file != file:
            file, start, num_lines = record.file, 0, 0
            relative = Path(os.path.relpath(Path(file).resolve(), root)).as_posix()
        if record.game is not None:
            yield record, f"{relative}#{record.game!r}"
            continue
        read = read_prompt(record.prompt)
        is_full = read is None and num_lines >= (UNKNOWN_BLOCK_LINES if record.form == PAIRS else 1)
        if start == 0 or is_full or (read is not None and read[1].starts_game):
            start, num_lines = record.line, 0
        num_lines += 1
        yield record, f"{relative}@{start}"


def common_root(paths: Iterable[Path]) -> Path:
    """Return the deepest directory above all files: the root for `game_keys`."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))
