"""A run's directory: the checkpoint that a run in it resumes from, its lock, status.json and log."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock as RunDirLock

from snake_dist.checkpoint.checkpoints import Checkpoint, choose, clean_leftovers, committed, verify
from snake_dist.errors import InputError
from snake_dist.files import (
    ADAPTER_DIR,
    CHECKPOINTS,
    LOCK,
    METRICS,
    OWNER,
    STATUS,
    SUMMARY,
    lock_directory,
    temporary_of,
    write_json_atomically,
    write_text_atomically,
)

_OF_A_BEGINNING = (LOCK, OWNER, temporary_of(Path(STATUS)).name)
"""What a session leaves that was killed, or found the disk full, before it had a status."""


def open_run_dir(path: Path, resume: str, warn: Any) -> tuple[Checkpoint | None, RunDirLock]:
    """Lock the directory `path`, created if needed; return (checkpoint to resume from, lock). Rank 0 only.

    The directory may hold a run only with resume "auto". Remains of interrupted writes are removed. Raises InputError
    if the directory holds something else, cannot be written, or another process holds its lock.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        may_continue = resume == "auto" and (path / STATUS).is_file()
        if not may_continue and any(found.name not in _OF_A_BEGINNING for found in path.iterdir()):
            hint = " (--resume auto resumes the run in it)" if (path / STATUS).is_file() else ""
            raise InputError(f"--output-dir {path}: is not empty: name a new or an empty directory{hint}")
        with tempfile.TemporaryFile(dir=path):
            pass
        lock = lock_directory(path, f"--output-dir {path}")
        clean_leftovers(path)
        chosen = _resumed_from(Path(resume).expanduser(), warn) if resume not in ("auto", "never") else None
        chosen = choose(path, warn) if may_continue else chosen
    except OSError as problem:
        raise InputError(f"--output-dir {path}: cannot be written ({problem.strerror or problem})") from None
    return chosen, lock


def _resumed_from(path: Path, warn: Any) -> Checkpoint:
    if committed(path):
        chosen = choose(path, warn)
        assert chosen is not None
        return chosen
    if not path.is_dir():
        raise InputError(f"--resume {path}: no such directory: name auto, never, a checkpoint or a run's directory")
    return verify(path)


State = Literal["training", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Status:
    """What status.json holds."""

    state: State
    step: int = 0
    """Steps done."""
    num_steps: int = 0
    checkpoint: str | None = None
    """The newest durable checkpoint, below the run's directory."""
    reason: str | None = None
    """Why the run stopped or failed."""
    restarts_without_progress: int = 0
    """How many sessions in a row began no further than the one before."""
    started_at_step: int = 0
    """The step with which this session began."""
    updated: str = ""
    """Time of the last write."""


def read_status(run_dir: Path) -> Status | None:
    """Return what status.json holds; None if there is none or it cannot be read."""
    try:
        status = Status(**json.loads((run_dir / STATUS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    steps = (status.step, status.num_steps, status.restarts_without_progress, status.started_at_step)
    return status if all(isinstance(number, int) for number in steps) else None


def write_status(run_dir: Path, status: Status) -> None:
    """Replace status.json, durably, with the time of now."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json_atomically(run_dir / STATUS, asdict(replace(status, updated=now)))


def begin_status(run_dir: Path, checkpoint: Checkpoint | None) -> None:
    """Write that a session begins, before anything can fail: a session that gets nowhere is counted too."""
    previous = read_status(run_dir)
    step = checkpoint.step if checkpoint else 0
    restarts = previous.restarts_without_progress + 1 if previous and step <= previous.started_at_step else 0
    status = Status(
        "training",
        step=step,
        num_steps=previous.num_steps if previous else 0,
        checkpoint=f"{CHECKPOINTS}/{checkpoint.path.name}" if checkpoint else None,
        restarts_without_progress=restarts,
        started_at_step=step,
    )
    write_status(run_dir, status)


def leave_run_dir(run_dir: Path, lock: RunDirLock, reason: str) -> None:
    """End a session that failed before it began: a directory that it created is empty again."""
    if not committed(run_dir) and not (run_dir / METRICS).exists():
        for name in (STATUS, OWNER, LOCK):
            (run_dir / name).unlink(missing_ok=True)
    else:
        write_status(run_dir, replace(read_status(run_dir) or Status("failed"), state="failed", reason=reason))
    lock.release()


def copy_metrics(source: Path, target: Path, step: int) -> list[dict[str, Any]]:
    """Copy the log's lines up to and including `step` to `target`, which may be `source`, and return them.

    A torn last line is dropped.
    """
    entries = []
    if source.is_file():
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int) and entry["step"] <= step:
                entries.append(entry)
    write_text_atomically(target, "".join(json.dumps(entry) + "\n" for entry in entries))
    return entries


def remove_results(run_dir: Path) -> None:
    """Remove the adapter and the summary of an interrupted session: this session writes them again."""
    shutil.rmtree(run_dir / ADAPTER_DIR.parent, ignore_errors=True)
    (run_dir / SUMMARY).unlink(missing_ok=True)
