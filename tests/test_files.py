from __future__ import annotations

import os
import stat
import tempfile

import pytest

from snake_dist import files
from snake_dist.errors import InputError
from snake_dist.files import OWNER, append_line, broken_files, lock_directory, new_directory, write_json_atomically


def write_two(directory):
    (directory / "a.txt").write_text("a")
    (directory / "below").mkdir()
    (directory / "below/b.txt").write_text("b")


def write_whole(target, write=write_two):
    with new_directory(target, durable=True) as directory:
        write(directory)


def test_a_durable_directory_is_whole_and_its_manifest_says_so(tmp_path):
    target = tmp_path / "new" / "target"
    write_whole(target)
    assert broken_files(target) == []
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize(("umask", "file_mode", "directory_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_others_can_read_it_where_the_umask_lets_them(tmp_path, umask, file_mode, directory_mode):
    def write(directory):
        write_two(directory)
        (directory / "below/b.txt").chmod(0o600)  # as safetensors leaves its files

    before = os.umask(umask)
    try:
        write_whole(tmp_path / "target", write)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "target").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {file_mode}
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == modes[tmp_path / "target/below"] == directory_mode


def test_damage_is_found(tmp_path):
    target = tmp_path / "target"
    write_whole(target)
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
        write_whole(tmp_path / "target", fail)
    assert list(tmp_path.iterdir()) == []


def test_of_two_equal_directories_written_at_once_the_first_stays(tmp_path):
    target = tmp_path / "cache"
    with new_directory(target, exist_ok=True) as second:
        with new_directory(target, exist_ok=True) as first:
            (first / "a.txt").write_text("first")
        (second / "a.txt").write_text("second")
    assert (target / "a.txt").read_text() == "first"
    with pytest.raises(OSError, match="not empty"), new_directory(target) as directory:
        write_two(directory)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_full_disk_is_named(tmp_path):
    """A write's own error, as /dev/full gives it, has no file's name."""

    def write(directory):
        (directory / "inside").symlink_to("/dev/full")
        (directory / "inside").write_text("a")

    with pytest.raises(OSError, match=r"No space left on device: '.*/target'"):
        write_whole(tmp_path / "target", write)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / OWNER).symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '.*/run/{OWNER}'"):
        lock_directory(tmp_path / "run", "--output run")
    with open("/dev/full", "ab", buffering=0) as log, pytest.raises(OSError, match="No space .*: '/dev/full'"):
        append_line(log, b"{}\n")


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomically(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_a_cache_that_cannot_be_written_gives_way_with_a_notice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    instead = tmp_path / f"snake_dist-{os.getuid()}"
    for home, reason in ((None, "home"), ("/proc", "/proc")):  # none at all, and one in which nobody can write
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(
            os.path, "expanduser", lambda path, home=home: path if home is None else path.replace("~", home)
        )
        assert files.user_cache() == instead
        assert instead.stat().st_mode & 0o777 == 0o700
        notice = capsys.readouterr().err
        assert notice.startswith(f"notice: caches go to {instead} (")
        assert reason in notice
        assert "XDG_CACHE_HOME names another directory" in notice
    instead.rmdir()
    instead.write_text("")
    with pytest.raises(InputError, match="no directory for caches .*: XDG_CACHE_HOME names another directory"):
        files.user_cache()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert files.user_cache() == tmp_path / "own" / "snake_dist"
