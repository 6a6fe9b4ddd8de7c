"""Data sets as tables: Parquet and Arrow files, and those of a hub, which become Arrow files: the extra `data`.

Each row is read as the JSON object of a line, and its number, from 1, stands for the line's.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError

TABLE_NAME = re.compile(r"\.(parquet|arrow)$", re.IGNORECASE)
HUB = "hub:"
"""Begins --data hub:NAME[:SPLIT[:CONFIG]]."""
_PARQUET, _ARROW_FILE = b"PAR1", b"ARROW1"
_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_table(path: Path) -> bool:
    """Return whether the file is Parquet by its first bytes, or Arrow by them or its name: streams have no mark."""
    with path.open("rb") as file:
        start = file.read(len(_ARROW_FILE))
    return start.startswith((_PARQUET, _ARROW_FILE)) or path.name.lower().endswith(".arrow")


def is_leftover(path: Path) -> bool:
    """Return whether an Arrow file lies beside a data set that was saved by `datasets` and is no part of it."""
    state = path.parent / _STATE
    if path.suffix != ".arrow" or not state.is_file():
        return False
    try:
        return path.name not in {file["filename"] for file in json.loads(state.read_text())["_data_files"]}
    except (ValueError, KeyError, TypeError):
        return False


def check_no_splits(directory: Path) -> None:
    """Raise InputError for a directory in which `datasets` saved several splits."""
    if (directory / _SPLITS).is_file():
        splits = ", ".join(sorted(str(path.parent) for path in directory.glob(f"*/{_STATE}")))
        raise InputError(f"{directory}: a data set with splits: name the one to train on: {splits}")


def numbered_rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, JSON) of every row. Raises InputError for a file that cannot be read."""
    pyarrow = _module("pyarrow", str(path))
    number = 0
    try:
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield number, json.dumps(row, default=str).encode()
    except pyarrow.ArrowException as problem:
        raise InputError(f"{path}: no readable table: {' '.join(str(problem).split())[:200]}") from None


def _batches(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        start = file.read(len(_ARROW_FILE))
    if start.startswith(_PARQUET):
        with _module("pyarrow.parquet", str(path)).ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=1024)
    elif start == _ARROW_FILE:
        with _module("pyarrow.ipc", str(path)).open_file(path) as table:
            yield from (table.get_batch(i) for i in range(table.num_record_batches))
    else:
        with path.open("rb") as file, _module("pyarrow.ipc", str(path)).open_stream(file) as table:
            yield from table


@cache
def hub_files(source: str) -> tuple[Path, ...]:
    """Return the Arrow files of hub:NAME[:SPLIT[:CONFIG]], loaded by `datasets` into its cache. Raises InputError."""
    name, _, rest = source.removeprefix(HUB).partition(":")
    split, _, config = rest.partition(":")
    if not name or (split and not re.fullmatch(r"\w+", split)):
        raise InputError(f"--data {source}: hub:NAME, hub:NAME:SPLIT or hub:NAME:SPLIT:CONFIG is expected")
    datasets = _module("datasets", f"--data {source}")
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(name, config or None, split=split or "train")
    except Exception as problem:  # its errors have no common class
        raise InputError(f"--data {source}: {type(problem).__name__}: {' '.join(str(problem).split())[:300]}") from None
    return tuple(Path(file["filename"]) for file in loaded.cache_files)


def _module(name: str, place: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{place}: to read tables and hub data sets, pip install 'snake_dist[data]'") from None
