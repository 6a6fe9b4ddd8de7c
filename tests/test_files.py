from __future__ import annotations

import os
import stat

import pytest

from snake_dist.files import broken_files, publish_directory, write_json_atomically


def write_two(directory):
    (directory / "a.txt").write_text("a")
    (directory / "below").mkdir()
    (directory / "below/b.txt").write_text("b")


def test_a_published_directory_is_whole_and_says_so(tmp_path):
    target = tmp_path / "new" / "target"
    publish_directory(target, write_two)
    assert broken_files(target) == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize(("umask", "file_mode", "directory_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_others_can_read_it_where_the_umask_lets_them(tmp_path, umask, file_mode, directory_mode):
    def write(directory):
        write_two(directory)
        (directory / "below/b.txt").chmod(0o600)  # as safetensors leaves its files

    before = os.umask(umask)
    try:
        publish_directory(tmp_path / "target", write)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "target").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {file_mode}
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == modes[tmp_path / "target/below"] == directory_mode


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
