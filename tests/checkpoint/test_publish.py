from __future__ import annotations

import pytest

from snake_dist.checkpoint.publish import broken_files, publish_directory, write_json_atomically


def write_two(directory):
    (directory / "a.txt").write_text("a")
    (directory / "below").mkdir()
    (directory / "below/b.txt").write_text("b")


def test_a_published_directory_is_whole_and_says_so(tmp_path):
    target = tmp_path / "new" / "target"
    publish_directory(target, write_two)
    assert broken_files(target) == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_damage_is_found(tmp_path):
    target = tmp_path / "target"
    publish_directory(target, write_two)
    (target / "a.txt").write_text("x")
    (target / "below/b.txt").unlink()
    assert sorted(broken_files(target)) == ["a.txt", "below/b.txt"]
    (target / "manifest.json").write_text("{")
    assert broken_files(target) == ["manifest.json"]


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(directory):
        write_two(directory)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish_directory(tmp_path / "target", fail)
    assert list(tmp_path.iterdir()) == []


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomically(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'
