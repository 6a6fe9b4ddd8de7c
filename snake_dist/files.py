"""One way to write a file or a directory whole or not at all: write aside, sync, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from snake_dist.errors import InputError

MANIFEST = "manifest.json"
"""In a directory that was written durably: the sha256 of its files."""

# A run's directory; a data set's has a SUMMARY too.
CONFIG, DS_CONFIG, RUN_FACTS = "config.yaml", "ds_config.json", "run.json"
METRICS, STATUS, SUMMARY = "metrics.jsonl", "status.json", "summary.json"
NOT_FINITE, TENSORBOARD, PROFILE = "not_finite.json", "tensorboard", "profile"
CHECKPOINTS = "checkpoints"
ADAPTER_DIR = Path("lora_adapters/model_artifacts")
REPORT_DIR = "report"

# Of every directory that one run at a time may write.
LOCK, OWNER = ".run.lock", ".run.owner"

# A report's directory.
REPORT, PAGE, GAMES_DIR = "report.json", "report.html", "games"


def user_cache() -> Path:
    """Return this user's cache directory, or one for temporary files, with a notice, where that cannot be written.

    Containers and compute nodes have users without a name, without a home, or with one that is mounted read-only.
    Raises InputError if neither can be written.
    """
    import platformdirs

    try:
        path = platformdirs.user_cache_path("snake_dist")
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
        problem: Exception = PermissionError(f"{path} is not yours to write")
    except (OSError, RuntimeError) as found:  # RuntimeError: there is no home
        problem = found
    instead = Path(tempfile.gettempdir()) / f"snake_dist-{os.getuid()}"
    advice = "XDG_CACHE_HOME names another directory"
    try:
        instead.mkdir(mode=0o700, exist_ok=True)
        if instead.stat().st_uid != os.getuid():
            raise PermissionError(f"{instead} is not yours")
    except OSError as second:
        raise InputError(f"no directory for caches ({problem}; {second}): {advice}") from None
    if os.environ.get("RANK", "0") == "0":
        _notify_once(f"notice: caches go to {instead} ({problem}): {advice}")
    return instead


@cache
def _notify_once(notice: str) -> None:
    print(notice, file=sys.stderr)


@contextmanager
def naming_errors(path: Path | str) -> Iterator[None]:
    """Give an OSError of the block this file's name if it has none: those of a write, a flush and a sync have none."""
    try:
        yield
    except OSError as problem:
        if problem.errno is None or problem.filename is not None:
            raise
        raise OSError(problem.errno, problem.strerror, str(path)) from problem


@contextmanager
def new_directory(target: Path, *, durable: bool = False, exist_ok: bool = False) -> Iterator[Path]:
    """Yield a hidden directory beside `target`; at the end of the block, rename it to `target`.

    After a crash at any moment `target` is either complete or absent; what a killed process leaves is hidden, so that
    nobody reads it as data. `durable`: sync every file and list its sha256 in manifest.json. `exist_ok`: where another
    process wrote `target` meanwhile, leave that one. Raises OSError if the directory cannot be written; after any
    exception the hidden directory is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    temporary.mkdir()
    try:
        with naming_errors(target):
            yield temporary
            if durable:
                _add_manifest(temporary)
        try:
            os.rename(temporary, target)
        except OSError:
            if not (exist_ok and target.is_dir()):
                raise
        if durable:
            _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _add_manifest(directory: Path) -> None:
    """Write manifest.json and sync every file."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    manifest = {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    mode = stat.S_IMODE((directory / MANIFEST).stat().st_mode)
    for path in files:
        path.chmod(mode)  # safetensors writes files that only their owner can read: give them the umask's mode
    for path in [*files, directory / MANIFEST, directory]:
        _sync(path)


def broken_files(directory: Path) -> list[str]:
    """Return the names in the manifest whose file is missing or differs; ["manifest.json"] if that is unreadable."""
    try:
        manifest: dict[str, str] = json.loads((directory / MANIFEST).read_text())
        return [
            name
            for name, digest in manifest.items()
            if not (directory / name).is_file() or sha256_of(directory / name) != digest
        ]
    except (OSError, ValueError, AttributeError):
        return [MANIFEST]


def check_intact(directory: Path, named: str, *, but: Collection[str] = ()) -> None:
    """Raise InputError, beginning with `named`, unless every file, `but` these, is as listed in the manifest."""
    broken = broken_files(directory) if directory.is_dir() else ["the directory"]
    broken = [name for name in broken if name not in but]
    if broken:
        raise InputError(f"{named}: damaged or missing: {', '.join(broken)}")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json_atomically(path: Path, value: object) -> None:
    """Replace the file by `value` as JSON; a reader sees the old or the new content, never part of it."""
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file by `text`, durable when this returns. Raises OSError with the file's name."""
    temporary = temporary_of(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, str(path)) from problem
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def append_line(file: FileIO, line: bytes, *, durable: bool = False) -> None:
    """Write the line to an unbuffered file. Raises OSError, with the file's name, unless all of it was written."""
    with naming_errors(file.name):
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(file.fileno())


def temporary_of(path: Path) -> Path:
    """Return where `write_text_atomically` writes first; a process that is killed there leaves it."""
    return path.with_name(f".{path.name}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(path: Path, named: str) -> FileLock:
    """Take the lock of the directory, created if needed; the system drops it when the process ends, however it ends.

    Raises InputError, beginning with `named`, if another process has it.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            owner = (path / OWNER).read_text(encoding="utf-8").strip()
        except OSError:
            owner = "a process without a name"
        raise InputError(f"{named}: another run is using it: {owner}") from None
    with naming_errors(path / OWNER):
        (path / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return lock
