from __future__ import annotations

import json
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snake_dist.data.json_files import MAX_LINE_BYTES
from snake_dist.data.records import Record, check_train_seed, read_records
from snake_dist.errors import InputError
from snake_dist.game.rules import SEED_RANGES

GOOD = b'{"prompt": "head 36", "completion": "Move: UP"}'


def write(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_a_line_becomes_a_record(tmp_path: Path) -> None:
    line = {"prompt": "p ü", "completion": "c", "game_id": 7, "seed": 5, "style": "move", "extra": [1, None]}
    path = write(tmp_path / "a.jsonl", json.dumps(line, ensure_ascii=False).encode(), b" ", GOOD + b"\r", b"")
    first, second = read_records([path])
    assert first == Record("p ü", "c", 7, 5, str(path), 1, "move")
    assert second == Record("head 36", "Move: UP", None, None, str(path), 3)
    assert second.place == f"{path}:3"


BAD = {
    "torn or invalid JSON: Unterminated string": b'{"prompt": "head 36", "compl',
    "torn or invalid JSON: Extra data": GOOD + GOOD,
    "torn or invalid JSON: Expecting value": b"\0\0\0\0",
    "torn or invalid JSON: a number or a nesting": b'{"prompt": ' + b"9" * 5000 + b"}",
    "torn or invalid JSON: a number or a nesting ": b"[" * 100_000,
    "not a JSON object": b'["prompt", "completion"]',
    "not a JSON object ": b"null",
    "no key 'prompt'": b'{"completion": "Move: UP"}',
    "no key 'completion'": b'{"prompt": "head 36", "Completion": "Move: UP"}',
    "prompt is not a string but list": b'{"prompt": ["head 36"], "completion": "Move: UP"}',
    "completion is not a string but dict": b'{"prompt": "head 36", "completion": {"move": "UP"}}',
    "completion is not a string but NoneType": b'{"prompt": "head 36", "completion": null}',
    "prompt is not a string but float": b'{"prompt": NaN, "completion": "Move: UP"}',
    "empty prompt": b'{"prompt": "", "completion": "Move: UP"}',
    "empty completion": b'{"prompt": "head 36", "completion": " \\n\\t"}',
    "byte order mark (BOM): save the file as UTF-8 without it": b"\xef\xbb\xbf" + GOOD,
    "invalid UTF-8 at byte 13": b'{"prompt": "\xff", "completion": "Move: UP"}',
    "invalid UTF-8 at byte 1": GOOD.decode().encode("utf-16"),
    "a key appears twice: 'prompt'": b'{"prompt": "a", "prompt": "b", "completion": "Move: UP"}',
    "prompt contains half of a surrogate pair": b'{"prompt": "\\ud800", "completion": "Move: UP"}',
    "game_id is neither a string nor an integer": GOOD[:-1] + b', "game_id": 1.5}',
    "over-long line, more than 1048576 bytes": GOOD + b" " * MAX_LINE_BYTES,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_stops_with_its_place_or_is_counted(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, b"", BAD[reason], GOOD)
    with pytest.raises(InputError, match=f"^{re.escape(f'{path}:3: {reason.strip()}')}[^\n]*$"):
        list(read_records([path]))
    skipped: Counter[str] = Counter()
    kept = list(read_records([path], "skip", skipped))
    assert [record.line for record in kept] == [1, 4]
    assert list(skipped.values()) == [1]
    # The counted reason is one of a few: it holds nothing of the line itself.
    assert reason.startswith(next(iter(skipped)))


def test_the_longest_line_allowed_is_read(tmp_path: Path) -> None:
    longest = GOOD.ljust(MAX_LINE_BYTES)
    path = write(tmp_path / "a.jsonl", longest, longest)
    assert len(list(read_records([path]))) == 2
    path.write_bytes(longest)
    assert len(list(read_records([path]))) == 1
    write(path, longest + b" ")
    with pytest.raises(InputError, match=":1: over-long"):
        list(read_records([path]))


def test_no_record_at_all_is_an_error(tmp_path: Path) -> None:
    empty, bad = write(tmp_path / "empty.jsonl", b""), write(tmp_path / "bad.jsonl", b"x", b"y")
    for paths in ([empty], [empty, bad]):
        with pytest.raises(InputError, match=r"no usable line in .*empty\.jsonl"):
            list(read_records(paths, "skip"))
    with pytest.raises(InputError, match=r"'ignore'.*stop, skip"):
        list(read_records([empty], "ignore"))
    with pytest.raises(InputError, match=r"gone\.jsonl: cannot be read: No such file"):
        list(read_records([tmp_path / "gone.jsonl"]))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = json.dumps({"prompt": "p" * 400, "completion": "c" * 100}).encode()
    path = write(tmp_path / "big.jsonl", *[line] * 12_000, b"x" * 20_000_000)
    tracemalloc.start()
    skipped: Counter[str] = Counter()
    assert sum(1 for _ in read_records([path], "skip", skipped)) == 12_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert skipped == {"over-long line": 1}
    assert peak < 6_000_000


def test_dev_and_test_games_are_refused_for_training(tmp_path: Path) -> None:
    for name, seeds in SEED_RANGES.items():
        for seed in (seeds[0], seeds[-1]):
            record = Record("p", "c", 1, seed, "a.jsonl", 3)
            if name == "train":
                check_train_seed(record)
            else:
                with pytest.raises(InputError, match=rf"a\.jsonl:3: seed {seed} is a {name} seed"):
                    check_train_seed(record)
    path = write(tmp_path / "a.jsonl", GOOD, GOOD[:-1] + b', "seed": "third-party"}')
    for record in read_records([path]):
        check_train_seed(record)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
lines = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("prompt", "completion", "game_id", "seed", "step"), json_values)
)
raw_lines = (
    st.binary()
    | st.binary().map(lambda noise: GOOD[: len(noise)] + noise + GOOD[len(noise) :])
    | (lines | json_values).map(lambda value: json.dumps(value).encode())
)


@given(raw=raw_lines)
def test_any_bytes_give_a_record_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(raw)
    try:
        found = list(read_records([path]))
    except InputError as error:
        found, message = [], str(error)
        if "\n" in message or str(path) not in message:
            raise AssertionError(message) from error
    for record in found:
        assert record.prompt.strip()
        assert record.completion.strip()
        (record.prompt + record.completion).encode()
    skipped: Counter[str] = Counter()
    num_kept = 0
    try:
        num_kept = len(list(read_records([path], "skip", skipped)))
    except InputError as error:
        if re.search(rf"{re.escape(str(path))}:\d", str(error)):
            raise
        if not str(error).startswith("no usable line"):  # the file is of another kind: none of its lines is bad
            return
    assert num_kept + skipped.total() == sum(bool(line.strip(b" \t\r\n")) for line in raw.split(b"\n"))
