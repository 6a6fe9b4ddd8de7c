"""Checkpoints of a run on disk: commit, verify, choose, prune.

`RUN/checkpoints/step-00000040/` holds state.safetensors (see `zero/state.py`), state.json and manifest.json.
A directory of that name is complete, or was damaged later: it receives its name when everything is synced.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from snake_dist.errors import InputError, NoGoodCheckpointError, check_at_least
from snake_dist.files import CHECKPOINTS, MANIFEST, check_intact, new_directory

if TYPE_CHECKING:
    import torch

TENSORS, NUMBERS = "state.safetensors", "state.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run saves checkpoints, and whether it resumes from one."""

    resume: str = "never"
    """auto: resume the run in --output-dir, if it holds one; never: start a new run; PATH: start a new directory from
    that checkpoint, or from the newest one of that run's directory."""
    save_every: int = 50
    """Save every this many steps; 0: only when training ends or is stopped."""
    keep_checkpoints: int = 3
    """Keep this many of the newest checkpoints, and the best one."""
    best_by: Literal["loss", "play"] = "loss"
    """loss: the best checkpoint has the lowest held-out loss; play: the most apples per game in the games of
    --eval-every."""
    rank_timeout_s: float = 600.0
    """End the run, and name the stuck rank, after this many seconds of training without progress of any rank."""


def check_checkpoint_config(config: CheckpointConfig) -> None:
    """Raise InputError for an impossible value."""
    check_at_least(config, save_every=0, keep_checkpoints=1, rank_timeout_s=1)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    numbers: dict[str, Any]
    """The content of state.json."""

    @property
    def step(self) -> int:
        return self.numbers["step"]


def checkpoints_dir(run_dir: Path) -> Path:
    """Return the directory of a run's checkpoints."""
    return run_dir / CHECKPOINTS


def checkpoint_path(run_dir: Path | str, step: int) -> Path:
    return Path(run_dir) / CHECKPOINTS / f"step-{step:08d}"


def committed(run_dir: Path) -> list[Path]:
    """Return the directories of committed checkpoints, newest first."""
    paths = [path for path in checkpoints_dir(run_dir).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def commit(run_dir: Path, step: int, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> Path:
    """Write a checkpoint, durable when this returns. Raises OSError naming the path, and then leaves nothing of it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = checkpoint_path(run_dir, step)

    if path.exists():  # a damaged one, which the run did not resume from
        _remove(path)
    try:
        with new_directory(path, durable=True) as directory:
            save_file(tensors, directory / TENSORS)
            (directory / NUMBERS).write_text(json.dumps({"format": FORMAT, "step": step, **numbers}, indent=2) + "\n")
    except (OSError, SafetensorError) as problem:
        raise OSError(f"checkpoint {path}: not saved ({problem})") from problem
    return path


def verify(path: Path) -> Checkpoint:
    """Return the checkpoint in `path`. Raises InputError unless every file is as it was written."""
    check_intact(path, str(path))
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        numbers = json.loads((path / NUMBERS).read_text(encoding="utf-8"))
        missing = {TENSORS, NUMBERS} - manifest.keys()
        sound = not missing and numbers["format"] == FORMAT and numbers["step"] == _step_of(path)
        sound = sound and isinstance(numbers["fingerprint"], dict) and isinstance(numbers["optimizer"], dict)
        sound = sound and isinstance(numbers["optimizer"]["loss_scaler"], dict)
        sound = sound and isinstance(numbers["optimizer"]["optimizer_steps"], int | None)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise InputError(f"{path}: not a checkpoint of this program ({type(problem).__name__}: {problem})") from None
    if not sound:
        raise InputError(f"{path}: not a checkpoint of this program, or of another version")
    return Checkpoint(path, numbers)


def choose(run_dir: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest intact checkpoint; None if none was ever committed. `warn(text)` names each damaged one.

    Raises NoGoodCheckpointError if there are checkpoints and all are damaged.
    """
    paths = committed(run_dir)
    for path in paths:
        try:
            return verify(path)
        except InputError as problem:
            warn(f"skipped a checkpoint: {problem}")
    if paths:
        raise NoGoodCheckpointError(
            f"{checkpoints_dir(run_dir)}: none of the {len(paths)} checkpoints is intact: the run cannot resume; "
            "name another --output-dir to start anew"
        )
    return None


def read_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint. Raises InputError if they cannot be read."""
    from safetensors.torch import load_file

    with _readable(checkpoint) as path:
        return load_file(path)


def read_names(checkpoint: Checkpoint) -> list[str]:
    """Return the names of a checkpoint's tensors, without reading them. Raises InputError if that cannot be done."""
    from safetensors import safe_open

    with _readable(checkpoint) as path, safe_open(path, framework="np") as tensors:
        return list(tensors.keys())


@contextmanager
def _readable(checkpoint: Checkpoint) -> Iterator[Path]:
    from safetensors import SafetensorError

    path = checkpoint.path / TENSORS
    try:
        yield path
    except (OSError, SafetensorError) as problem:
        raise InputError(f"{path}: cannot be read ({problem})") from None


def prune(run_dir: Path, keep: int, best_by: str) -> None:
    """Remove all but the newest `keep` checkpoints and the best one, by "loss" or "play".

    Call it after the newest one was verified.
    """
    paths = committed(run_dir)
    best = best_checkpoint(run_dir, best_by)
    for path in paths[keep:]:
        if path != best:
            _remove(path)


def clean_leftovers(run_dir: Path) -> None:
    """Remove the remains of an interrupted commit or removal."""
    for path in checkpoints_dir(run_dir).glob(".step-*"):
        shutil.rmtree(path)


def _remove(path: Path) -> None:
    """Hide the directory in one rename, then remove it: no half-removed directory looks like a checkpoint."""
    hidden = path.with_name(f".{path.name}-removed-{os.getpid()}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def best_checkpoint(run_dir: Path, best_by: str) -> Path | None:
    """Return the checkpoint with the lowest held-out loss, or, `best_by` "play", with the most apples per game, and of
    equal ones the one with the lower loss, then the earlier one. None if none was evaluated in that way."""
    scores = {path: _badness(path, best_by) for path in committed(run_dir)}
    scored = {path: (*score, _step_of(path)) for path, score in scores.items() if score is not None}
    return min(scored, key=lambda path: scored[path], default=None)


def _badness(path: Path, best_by: str) -> tuple[float, ...] | None:
    """Return a key that is lowest for the best checkpoint; None for one that was not evaluated."""
    try:
        numbers = json.loads((path / NUMBERS).read_text(encoding="utf-8"))
        loss, apples = numbers["held_out_loss"], numbers.get("play_apples")
        if best_by == "play":  # without held-out examples there is no loss
            return None if apples is None else (-apples, math.inf if loss is None else loss)
        return None if loss is None else (loss,)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def check_fingerprint(checkpoint: Checkpoint, fingerprint: dict[str, Any]) -> None:
    """Raise InputError, with both values of each difference, unless the checkpoint is one of this run."""
    # Runs were plain before there were templates.
    saved = {"--template": "plain"} | checkpoint.numbers["fingerprint"]
    different = [
        f"{name} was {_short(saved.get(name))}, now {_short(fingerprint.get(name))}"
        for name in sorted(saved.keys() | fingerprint.keys())
        if saved.get(name) != fingerprint.get(name)
    ]
    if different:
        raise InputError(f"--resume: {checkpoint.path} is of another run: {'; '.join(different)}")


def _short(value: Any) -> Any:
    return value[:23] + "..." if isinstance(value, str) and len(value) > 26 else value
