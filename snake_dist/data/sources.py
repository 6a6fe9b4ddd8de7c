"""The data files that --data stands for: every file below a directory is one of them, or is named as passed over."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

from snake_dist.data.json_files import is_data
from snake_dist.data.tables import HUB, check_no_splits, hub_files
from snake_dist.errors import InputError

_WEIGHT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)")


def resolve_paths(patterns: Iterable[str | Path], passed_over: list[str] | None = None) -> list[Path]:
    """Return the data files of `resolve_sources`."""
    return [path for path, _ in resolve_sources(patterns, passed_over)]


def resolve_sources(patterns: Iterable[str | Path], passed_over: list[str] | None = None) -> list[tuple[Path, int]]:
    """Return the data files of files, directories (all `is_data` below, links followed), globs and hub:NAME, each with
    the position of the pattern that named it first. A pattern may have a weight, see `split_weight`.

    They come in the order of the patterns, sorted within each, every file once, links to it included. What lies below a
    directory and is not read goes to `passed_over`: other files, and hidden files and directories, which are not
    entered: an unfinished data set lies in one. Raises InputError for a pattern without any file, and for a data file
    that is not a regular file: a run reads its files more than once, and on every node.
    """
    files: dict[Path, tuple[Path, int]] = {}
    others: list[str] = []
    for position, pattern in enumerate(patterns):
        for path in _expand(split_weight(pattern)[0], others):
            if not path.is_file():
                raise InputError(_why_unusable(path))
            files.setdefault(path.resolve(), (path, position))
    if not files:
        raise InputError("no data file was named")
    if passed_over is not None:
        passed_over += [other for other in dict.fromkeys(others) if Path(other).resolve() not in files]
    return list(files.values())


def split_weight(pattern: str | Path) -> tuple[str, Fraction | None]:
    """Return (PATH, WEIGHT) of PATH=WEIGHT, and (pattern, None) of another one and of a path that exists.

    Raises InputError for a weight that is not above 0.
    """
    path, _, number = str(pattern).rpartition("=")
    if not path or not _WEIGHT.fullmatch(number) or Path(pattern).expanduser().exists():
        return str(pattern), None
    weight = Fraction(number)
    if weight <= 0:
        raise InputError(f"--data {pattern}: a weight is above 0; leave out what is not to be trained on")
    return path, weight


def _expand(pattern: str | Path, passed_over: list[str]) -> list[Path]:
    path = Path(pattern).expanduser()
    if str(pattern).startswith(HUB) and not path.exists():
        return list(hub_files(str(pattern)))
    # An existing name is no pattern, even if it contains glob characters.
    if path.exists():
        matches = [path]
    else:
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if not matches:
            raise InputError(f"no such file, directory or match: {pattern}")
    files: list[Path] = []
    others: list[str] = []
    for match in matches:
        if match.is_dir():
            check_no_splits(match)
            for path in sorted(_below(match, set())):
                if is_data(path):
                    files.append(path)
                else:
                    others.append(str(path))
        else:
            files.append(match)
    if not files:
        there = f", only {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}" if others else ""
        raise InputError(f"no data file (*.jsonl, *.json of an array, *.parquet) in {pattern}{there}")
    passed_over += others
    return files


def _below(directory: Path, entered: set[Path]) -> Iterator[Path]:
    """Yield every file below, and hidden directories unentered; a directory that several links lead to comes once."""
    if directory.resolve() in entered:
        return
    entered.add(directory.resolve())
    try:
        children = sorted(directory.iterdir())
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}") from error
    for path in children:
        if path.is_dir() and not path.name.startswith("."):
            yield from _below(path, entered)
        else:
            yield path


def _why_unusable(path: Path) -> str:
    if not path.exists():
        return f"{path}: a link to nothing"
    return f"{path}: a pipe or a device; a run reads its data more than once: write it to a file and name that"
