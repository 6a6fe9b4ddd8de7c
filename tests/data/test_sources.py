"""Which files a source stands for: none below it is lost without a word."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from snake_dist.data.sources import resolve_paths
from snake_dist.errors import InputError


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"prompt": "head 36", "completion": "Move: UP"}\n')
    return path


def names(root: Path, *patterns: str) -> list[str]:
    found = resolve_paths([root / pattern for pattern in patterns])
    return [path.relative_to(root).as_posix() for path in found]


def test_files_directories_and_globs_are_found_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "b/2.jsonl",
        "b/10.jsonl",
        "b/deep/1.jsonl",
        "a.jsonl",
        "c/.x.partial/1.jsonl",
        "c/.h.jsonl",
        "d[1].jsonl",
    ):
        write(tmp_path / name)
    write(tmp_path / "b/summary.json")
    below_b = ["b/10.jsonl", "b/2.jsonl", "b/deep/1.jsonl"]
    assert names(tmp_path, "b") == below_b
    assert names(tmp_path, "a.jsonl", "b/deep", "b") == [
        "a.jsonl",
        "b/deep/1.jsonl",
        "b/10.jsonl",
        "b/2.jsonl",
    ]
    assert names(tmp_path, "*.jsonl") == ["a.jsonl", "d[1].jsonl"]
    assert names(tmp_path, "**/*.jsonl") == ["a.jsonl", *below_b, "d[1].jsonl"]
    assert names(tmp_path, "[a-b]*") == ["a.jsonl", *below_b]
    assert names(tmp_path, "d[1].jsonl") == ["d[1].jsonl"]
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    assert names(tmp_path, "a.jsonl", "link.jsonl") == ["a.jsonl"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_paths(["~/a.jsonl"]) == [tmp_path / "a.jsonl"]
    for pattern in ("nowhere.jsonl", "nowhere/*.jsonl", "c"):
        with pytest.raises(InputError, match=f" {re.escape(str(tmp_path / pattern))}(, only|$)"):
            resolve_paths([tmp_path / "a.jsonl", tmp_path / pattern])
    with pytest.raises(InputError, match="no data file"):
        resolve_paths([])


def test_every_file_below_a_directory_is_used_or_passed_over_by_name(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "all", tmp_path / "disk-2"
    for path in (root / "part-1/a.jsonl", root / "b.JSONL", elsewhere / "part-2/c.jsonl", elsewhere / "d.jsonl"):
        write(path)
    for name in ("README.md", ".git/config", "part-1/.hidden.jsonl", "part-1/game_1.json"):
        write(root / name)
    (root / "part-2").symlink_to(elsewhere / "part-2")
    (root / "part-2/back").symlink_to(root)  # a loop
    (root / "part-3").symlink_to(elsewhere / "part-2")  # the same directory by another name
    (root / "linked.jsonl").symlink_to(elsewhere / "d.jsonl")
    passed_over: list[str] = []
    used = resolve_paths([root, root / "part-1/game_1.json"], passed_over)
    relative = [path.relative_to(root).as_posix() for path in used]
    assert relative == ["b.JSONL", "linked.jsonl", "part-1/a.jsonl", "part-2/c.jsonl", "part-1/game_1.json"]
    assert [os.path.relpath(path, root) for path in passed_over] == [".git", "README.md", "part-1/.hidden.jsonl"]


def test_what_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/a.jsonl")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "data/b.jsonl")
    for source in ("pipe", "data", "data/*", "p*"):
        with pytest.raises(InputError, match=r"(pipe|b\.jsonl): a pipe or a device; .* more than once: write it to a"):
            resolve_paths([tmp_path / source])
    (tmp_path / "data/b.jsonl").unlink()
    (tmp_path / "data/b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"b\.jsonl: a link to nothing"):
        resolve_paths([tmp_path / "data"])
    with pytest.raises(InputError, match="/dev/null: a pipe or a device"):
        resolve_paths(["/dev/null"])
    (tmp_path / "data/b.jsonl").unlink()

    def forbidden(directory: Path) -> None:
        raise PermissionError(13, "Permission denied", str(directory))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(InputError, match=r"data: cannot be read: Permission denied"):
        resolve_paths([tmp_path / "data"])


def test_a_directory_without_data_says_what_it_has(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv", "d.csv"):
        write(tmp_path / name)
    with pytest.raises(InputError, match=r"no data file \(.*\) in .*, only \S+a\.csv, \S+b\.csv, \S+c\.csv, \.\.\.$"):
        resolve_paths([tmp_path])
