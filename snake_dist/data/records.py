"""Training lines: JSON objects of this package or of others, in one of several `forms`, read one at a time.

Only the current line is in memory. A line is either a `Record` or an error with file, line and reason; it is never
repaired.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snake_dist.data.forms import FORMS, PAIRS, BadLine, form_of
from snake_dist.data.json_files import MAX_LINE_BYTES, numbered_lines
from snake_dist.errors import InputError
from snake_dist.game.rules import SEED_RANGES
from snake_dist.styles.catalog import STYLES

BAD_LINES = ("stop", "skip")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of training data."""

    prompt: str
    """Input of the model. Not blank."""
    completion: str
    """Text that the model learns to answer. Not blank."""
    game: str | int | None
    """The line's `game_id`, unique within its file; None without one."""
    seed: int | None
    """The seed of the game; None unless the line names one."""
    file: str
    """Path of the file, as given or as a directory or glob lists it."""
    line: int
    """Line number in the file, from 1."""
    style: str | None = None
    """The line's `style` if it is one of `catalog.STYLES`: what it was generated in."""
    system: str = ""
    """What stands before the first prompt of a conversation."""
    later: tuple[tuple[str, str], ...] = ()
    """(prompt, completion) of a conversation's further turns."""
    form: str = PAIRS
    """One of `forms.FORMS`: how the line says it."""

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """(prompt, completion) of every turn."""
        return (self.prompt, self.completion), *self.later

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read_records(
    paths: Iterable[Path],
    bad_lines: str = "stop",
    skipped: Counter[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Record]:
    """Yield the records of the files in order, without blank lines. `columns`: see `forms.parse_columns`.

    A bad line raises InputError "file:line: reason" with `bad_lines="stop"`; with "skip" it is dropped and
    `skipped[reason]` goes up by one. A file that cannot be read, and files without any record, raise InputError too.
    """
    if bad_lines not in BAD_LINES:
        raise InputError(f"unknown bad-lines choice {bad_lines!r}: choose from {', '.join(BAD_LINES)}")
    paths = list(paths)
    num_records = 0
    for path in paths:
        form: str | None = None
        try:
            for number, raw in numbered_lines(path):
                try:
                    fields = _parse(raw)
                    fields |= {key: fields[own] for key, own in (columns or {}).items() if own in fields}
                    form = form_of(fields, form, columns or {})
                    record = _record(fields, form, str(path), number)
                except BadLine as bad:
                    if bad_lines == "stop":
                        raise InputError(f"{path}:{number}: {bad.reason}{bad.detail}") from None
                    if skipped is not None:
                        skipped[bad.reason] += 1
                    continue
                num_records += 1
                yield record
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if num_records == 0:
        raise InputError(f"no usable line in {', '.join(map(str, paths[:3]))}{', ...' if len(paths) > 3 else ''}")


def check_train_seed(record: Record) -> None:
    """Raise InputError if the line comes from a game that is reserved for judging (a dev or test seed)."""
    if record.seed is None:
        return
    for name, seeds in SEED_RANGES.items():
        if name != "train" and record.seed in seeds:
            raise InputError(f"{record.place}: seed {record.seed} is a {name} seed, reserved for judging")


def _parse(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LINE_BYTES:
        raise BadLine("over-long line", f", more than {MAX_LINE_BYTES} bytes")
    if raw.startswith(_BOM):
        raise BadLine("byte order mark (BOM)", ": save the file as UTF-8 without it")
    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise BadLine("invalid UTF-8", f" at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        array = "; a file of one array is read if its name ends in .json" if raw.lstrip().startswith(b"[") else ""
        raise BadLine("torn or invalid JSON", f": {error.msg}, column {error.colno}{array}") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, or brackets nested deeper than the parser goes.
        raise BadLine("torn or invalid JSON", ": a number or a nesting that cannot be parsed") from None
    if not isinstance(fields, dict):
        array = ": a file of one array is read if its name ends in .json" if isinstance(fields, list) else ""
        raise BadLine("not a JSON object", array)
    return fields


def _record(fields: Mapping[str, Any], form: str, file: str, number: int) -> Record:
    game, seed, style = fields.get("game_id"), fields.get("seed"), fields.get("style")
    if isinstance(game, bool) or not isinstance(game, (str, int, type(None))):
        raise BadLine("game_id is neither a string nor an integer")
    is_seed = isinstance(seed, int) and not isinstance(seed, bool)
    is_style = isinstance(style, str) and style in STYLES
    system, ((prompt, completion), *later) = FORMS[form].read(fields)
    return Record(
        prompt,
        completion,
        game,
        seed if is_seed else None,
        file,
        number,
        style if is_style else None,
        system,
        tuple(later),
        form,
    )


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadLine("a key appears twice", f": {key[:40]!r}")
    return fields
