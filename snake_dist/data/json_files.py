"""What lies in a data file: JSON lines, or the elements of a JSON array, compressed or not, or a table's rows.

A file is known by its first bytes; only an array must also be named *.json, since a JSON line may begin with a bracket
by mistake.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from snake_dist.data.tables import TABLE_NAME, is_leftover, is_table, numbered_rows
from snake_dist.errors import InputError

MAX_LINE_BYTES = 1 << 20
"""Longer lines are bad: the longest line generated here (50 x 50, long snake) has about 30,000 bytes."""

LINES_NAME = re.compile(r"\.jsonl(\.gz|\.zst)?$", re.IGNORECASE)
ARRAY_NAME = re.compile(r"\.json(\.gz|\.zst)?$", re.IGNORECASE)
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
_WHITE_SPACE = re.compile(r"[ \t\r\n]*")
_AHEAD = 2 * MAX_LINE_BYTES
"""Characters of an array that are in memory beyond the current element, at least."""


def is_data(path: Path) -> bool:
    """Return whether a file below a directory is data: by its name, and a *.json by whether it holds an array."""
    if path.name.startswith(".") or is_leftover(path):
        return False
    if TABLE_NAME.search(path.name):
        return True
    return bool(LINES_NAME.search(path.name)) or (path.is_file() and holds_array(path))


def holds_array(path: Path) -> bool:
    """Return whether the file is named *.json, compressed or not, and begins as an array."""
    if not ARRAY_NAME.search(path.name):
        return False
    with opened(path) as file:
        return file.read(1 << 10).lstrip(b" \t\r\n").startswith(b"[")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, JSON) of every line that is not blank, element of an array, or row of a table.

    What is longer than `MAX_LINE_BYTES` is longer than that here too, but may be cut. Raises InputError for a file that
    cannot be read or unpacked, or is of another kind, and OSError as the disk does.
    """
    if is_table(path):
        yield from numbered_rows(path)
        return
    is_array = holds_array(path)
    with opened(path) as file:
        yield from _elements(file, path) if is_array else _lines(file)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a data file, unpacked. Raises InputError for what cannot be unpacked, also while it is read."""
    damage: list[type[Exception]] = [EOFError, zlib.error, gzip.BadGzipFile]
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        for magic, kind in _OTHER_KINDS.items():
            if start.startswith(magic):
                raise InputError(f"{path}: {kind}, not JSON: unpack or convert it to JSONL first")
        stream: IO[bytes] = file
        if start.startswith(_GZIP):
            stream = io.BufferedReader(gzip.GzipFile(fileobj=file))
        elif start.startswith(_ZSTD):
            zstd = _zstd(path)
            stream = io.BufferedReader(zstd.ZstdFile(file))
            damage.append(zstd.ZstdError)
        try:
            yield stream
        except tuple(damage) as error:
            raise InputError(f"{path}: cannot be unpacked: damaged or cut off ({error})") from None


def _zstd(path: Path) -> Any:
    """Return the standard library's module of Python 3.14, or its backport."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{path}: to read Zstandard, pip install 'snake_dist[data]', or unpack it first") from None


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield every line that is not blank; an over-long one is cut, one byte over."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if not raw.endswith(b"\n") and len(raw) > MAX_LINE_BYTES:
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
        else:
            raw = raw.removesuffix(b"\n")
        # Only what JSON calls white space: a run of NUL bytes is a torn write, not a blank line.
        if raw.strip(b" \t\r\n"):
            yield number, raw


def _elements(file: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every element of the one array; what follows a fault in it cannot be told apart, so that raises."""
    reader, decoder = io.TextIOWrapper(file, encoding="utf-8"), json.JSONDecoder()
    text, at, number = "", 0, 0

    def skip(sign: str = "") -> bool:
        """Move behind white space, and behind `sign` if it comes next; return whether it did."""
        nonlocal text, at
        if len(text) - at < _AHEAD:
            text, at = text[at:] + reader.read(_AHEAD), 0
        at = _WHITE_SPACE.match(text, at).end()  # type: ignore[union-attr]
        found = text.startswith(sign, at)
        at += len(sign) if found else 0
        return found

    try:
        skip("[")
        while not skip("]"):
            number += 1
            if number > 1 and not skip(","):
                raise InputError(f"{path}:{number}: torn or invalid JSON: a comma or the array's end was expected")
            skip()
            start = at
            _, at = decoder.raw_decode(text, at)
            yield number, text[start:at].encode()
        skip()
        if at < len(text):
            raise InputError(f"{path}: text after the end of the array")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: invalid UTF-8 ({error.reason}) after element {number}") from None
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "a number or a nesting that cannot be parsed"
        raise InputError(
            f"{path}:{number}: torn or invalid JSON: {why}, or an element of more than {MAX_LINE_BYTES} bytes"
        ) from None
