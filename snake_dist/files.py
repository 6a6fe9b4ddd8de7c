"""Publish a directory whole or not at all: write aside, sync, add a manifest, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from snake_dist.errors import InputError

MANIFEST = "manifest.json"


def publish_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new directory beside `target`, then rename it to `target`, which must not exist.

    Every file is synced, and listed with its sha256 in manifest.json. After a crash at any moment `target`
    is either complete or absent. Raises OSError if something cannot be written; the remains are removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        write(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        _open_as_usual(temporary, files, stat.S_IMODE((temporary / MANIFEST).stat().st_mode))
        for path in [*files, temporary / MANIFEST, temporary]:
            _sync(path)
        os.rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def broken_files(directory: Path) -> list[str]:
    """Names in the manifest whose file is missing or differs; ["manifest.json"] if that is unreadable."""
    try:
        manifest: dict[str, str] = json.loads((directory / MANIFEST).read_text())
        return [
            name
            for name, digest in manifest.items()
            if not (directory / name).is_file() or sha256_of(directory / name) != digest
        ]
    except (OSError, ValueError, AttributeError):
        return [MANIFEST]


def check_intact(directory: Path, named: str) -> None:
    """Raise InputError, beginning with `named`, unless every file is as the manifest says."""
    broken = broken_files(directory) if directory.is_dir() else ["the directory"]
    if broken:
        raise InputError(f"{named}: damaged or missing: {', '.join(broken)}")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json_atomically(path: Path, value: object) -> None:
    """Replace the file by `value` as JSON; a reader sees the old or the new content, never a part."""
    write_text_atomically(path, json.dumps(value, indent=2) + "\n")


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file by `text`, durable when this returns."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _open_as_usual(directory: Path, files: Sequence[Path], mode: int) -> None:
    """mkdtemp and safetensors make what only its owner can read: give it the mode that the umask leaves new files."""
    for path in files:
        path.chmod(mode)
    directory.chmod(mode | (mode & 0o444) >> 2)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
