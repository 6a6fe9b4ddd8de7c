"""What a data file holds is read, or named for what it is; nothing of a damaged one is lost without a word."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snake_dist.data import json_files
from snake_dist.data.json_files import MAX_LINE_BYTES, numbered_lines
from snake_dist.data.records import read_records
from snake_dist.data.sources import resolve_paths
from snake_dist.errors import InputError

LINES = [{"prompt": f"p {i}", "completion": "c" * i, "game_id": i} for i in range(1, 40)]
JSONL = "".join(json.dumps(line) + "\n" for line in LINES).encode()


def prompts(path: Path, bad_lines: str = "stop") -> list[tuple[int, str]]:
    return [(record.line, record.prompt) for record in read_records([path], bad_lines)]


EXPECTED = [(i, f"p {i}") for i in range(1, 40)]


def test_compressed_lines_and_arrays_are_read_as_plain_lines_are(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    half = len(JSONL) // 2
    contents = {
        "a.jsonl": JSONL,
        "a.jsonl.gz": gzip.compress(JSONL),
        "parts.jsonl.gz": gzip.compress(JSONL[:half]) + gzip.compress(JSONL[half:]),
        "a.jsonl.zst": zstd.compress(JSONL),
        "a.json": json.dumps(LINES).encode(),
        "pretty.json": b"\n " + json.dumps(LINES, indent=2).encode() + b"\n\n",
        "a.json.gz": gzip.compress(json.dumps(LINES).encode()),
        "lines.json": JSONL,
        "unnamed": gzip.compress(JSONL),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert prompts(tmp_path / name) == EXPECTED, name
    (tmp_path / "summary.json").write_text('{"no": "array"}')
    passed_over: list[str] = []
    found = {path.name for path in resolve_paths([tmp_path], passed_over)}
    assert found == contents.keys() - {"lines.json", "unnamed"}
    assert {Path(path).name for path in passed_over} == {"lines.json", "unnamed", "summary.json"}


def test_damaged_files_are_errors_also_where_bad_lines_are_skipped(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    packed, array = gzip.compress(JSONL), json.dumps(LINES).encode()
    contents = {
        "cut.jsonl.gz": (packed[:-20], "cannot be unpacked"),
        "flipped.jsonl.gz": (packed[:-8] + b"\0\0\0\0" + packed[-4:], "cannot be unpacked"),
        "cut.jsonl.zst": (zstd.compress(JSONL)[:-20], "cannot be unpacked"),
        "cut.json": (array[:-30], ":39: torn or invalid JSON: Unterminated string"),
        "open.json": (array[:-1], ":40: torn or invalid JSON: a comma or the array's end"),
        "torn.json": (array.replace(b"}, {", b"} {", 1), ":2: torn or invalid JSON: a comma or the array's end"),
        "more.json": (array + b"[]", "text after the end of the array"),
        "bytes.json": (array.replace(b"p 7", b"p \xff"), "invalid UTF-8"),
        "deep.json": (b"[" * 100_000, "a number or a nesting that cannot be parsed"),
        "long.json": (b'["' + b"x" * 5 * MAX_LINE_BYTES + b'"]', ":1: torn or .*, or an element of more than 1048576 "),
        "a.zip.jsonl": (b"PK\x03\x04...", "a zip archive, not JSON"),
        "a.jsonl.bz2": (bz2.compress(JSONL), "bzip2, not JSON"),
        "a.jsonl.xz": (lzma.compress(JSONL), "xz, not JSON"),
        "a.parquet": (b"PAR1...", "no readable table"),
        "utf-16.jsonl": (JSONL.decode().encode("utf-16"), ":1: invalid UTF-8"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        for bad_lines in ("stop", "skip"):
            if (name, bad_lines) == ("utf-16.jsonl", "skip"):
                continue
            with pytest.raises(InputError, match=rf"{name}.*{reason}") as raised:
                prompts(tmp_path / name, bad_lines)
            assert "\n" not in str(raised.value)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.jsonl", JSONL)
    with pytest.raises(InputError, match="zip archive"):
        prompts(tmp_path / "b.zip")


def test_an_array_under_a_name_of_lines_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(LINES))
    (tmp_path / "b.jsonl").write_text(json.dumps(LINES, indent=1))
    for name in ("a", "b"):
        with pytest.raises(
            InputError, match=rf"{name}\.jsonl:1: .* a file of one array is read if its name ends in \.json"
        ):
            prompts(tmp_path / f"{name}.jsonl")


def test_bad_elements_are_skipped_and_numbered_as_lines_are(tmp_path: Path) -> None:
    elements: list[Any] = [LINES[0], "text", {"prompt": "p"}, LINES[1], {"prompt": "x" * MAX_LINE_BYTES}, LINES[2]]
    (tmp_path / "a.json").write_text(json.dumps(elements))
    assert [number for number, _ in prompts(tmp_path / "a.json", "skip")] == [1, 4, 6]
    with pytest.raises(InputError, match=r"a\.json:2: not a JSON object"):
        prompts(tmp_path / "a.json")


def test_zstandard_without_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd...")

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(json_files.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"a\.jsonl\.zst: to read Zstandard, pip install 'snake_dist\[data\]'"):
        prompts(tmp_path / "a.jsonl.zst")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(elements=st.lists(json_values), indent=st.none() | st.integers(0, 2), ahead=st.integers(1, 50))
def test_any_array_comes_apart_into_its_elements(
    tmp_path_factory: pytest.TempPathFactory, elements: list[Any], indent: int | None, ahead: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(elements, indent=indent, ensure_ascii=False), encoding="utf-8", errors="replace")
    longest = max((len(json.dumps(element, indent=indent)) for element in elements), default=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_AHEAD", 2 * longest + ahead)
        found = [(number, json.loads(raw)) for number, raw in numbered_lines(path)]
    assert found == list(enumerate(json.loads(path.read_text(encoding="utf-8")), start=1))
