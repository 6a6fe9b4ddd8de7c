"""Faults for the ranks of a run: functions that change what a rank's process imports; the product has no hooks."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any


def replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute for the rest of this process. One that the owner has not, because it moved, fails."""
    getattr(owner, name)
    setattr(owner, name, value)


def at_step(step: int, action: Callable[..., None], *args: Any) -> None:
    """Call `action(*args)` once in the middle of step `step` (from 1), after the backward of a micro-batch."""
    from snake_dist.training import loop

    real_step, real_take = loop.training_step, loop.take_step
    now = {"step": 0}

    def training_step(*positional: Any, **named: Any) -> Any:
        now["step"] = named["step"] + 1
        return real_step(*positional, **named)

    def take_step(engine: Any) -> None:
        if now["step"] == step:
            now["step"] = 0
            action(*args)
        real_take(engine)

    replace(loop, "training_step", training_step)
    replace(loop, "take_step", take_step)


def full_disk_for(name: str, after: int) -> None:
    """Refuse writes to files of this name, as a full disk does, from the `after`-th unbuffered one that it opens on."""
    import io
    from pathlib import Path

    real_open = Path.open
    writes = {"number": 0}

    class Full(io.FileIO):
        def write(self, line: Any) -> int:
            writes["number"] += 1
            return super().write(line) if writes["number"] < after else super().write(memoryview(line)[:3])

    def open_file(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.name == name and "a" in str(arguments[:1]):
            return Full(self, "ab")
        return real_open(self, *arguments, **named)

    replace(Path, "open", open_file)


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "status.json")


def full_disk_at_start() -> None:
    from snake_dist.run import status_file

    replace(status_file, "write_status", lambda *_: full_disk())


def record_ids(path: str) -> None:
    """Append the examples of every step that this process begins to the file."""
    from snake_dist.training import loop

    real_step = loop.training_step

    def training_step(trainer: Any, ids: Any, *, step: int, **named: Any) -> Any:
        with open(path, "a") as file:
            file.write(json.dumps([step + 1, [int(i) for i in ids]]) + "\n")
        return real_step(trainer, ids, step=step, **named)

    replace(loop, "training_step", training_step)


def slow_steps(seconds: float) -> None:
    """Steps long enough to be killed in."""
    from snake_dist.training import loop

    real = loop.training_step

    def training_step(*positional: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return real(*positional, **named)

    replace(loop, "training_step", training_step)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def pause() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def ask_to_stop(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def nan_logits(first_step: int, last_step: int) -> None:
    """This rank's logits are NaN in these steps."""
    from snake_dist.training import loop

    real_step, real_forward = loop.training_step, loop.forward_trained
    now = {"step": 0}

    def training_step(*positional: Any, **named: Any) -> Any:
        now["step"] = named["step"] + 1
        return real_step(*positional, **named)

    def forward_trained(engine: Any, batch: Any) -> Any:
        logits, *rest = real_forward(engine, batch)
        return (logits * float("nan") if first_step <= now["step"] <= last_step else logits, *rest)

    replace(loop, "training_step", training_step)
    replace(loop, "forward_trained", forward_trained)


def nan_in_module(name: str, first_step: int, last_step: int) -> None:
    """The output of this module of the base is NaN on this rank in these steps."""
    import torch

    from snake_dist.training import loop

    real_step = loop.training_step
    now = {"step": 0}

    def break_output(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        return output * float("nan") if first_step <= now["step"] <= last_step else None

    def training_step(trainer: Any, ids: Any, *, step: int, **named: Any) -> Any:
        if now["step"] == 0:
            trainer.engine.module.get_base_model().get_submodule(name).register_forward_hook(break_output)
        now["step"] = step + 1
        return real_step(trainer, ids, step=step, **named)

    replace(loop, "training_step", training_step)


def out_of_memory() -> None:
    import torch

    from snake_dist.training import loop

    def forward_trained(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    replace(loop, "forward_trained", forward_trained)


def clock_back(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() - seconds


def failing(call: str, checkpoint: str, action: str) -> None:
    """From the moment `checkpoint` is written, os.CALL on it fails (action "fail") or kills the process ("die")."""
    real = getattr(os, call)

    def replaced(*args: Any, **named: Any) -> Any:
        place = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else str(args[0])
        if checkpoint in place:
            if action == "die":
                die()
            raise OSError(5, "Input/output error", place)
        return real(*args, **named)

    setattr(os, call, replaced)


def limited_files(num_bytes: int) -> None:
    """No file of this process may grow beyond this many bytes: writing fails as on a full disk, with EFBIG."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def at_game(number: int, action: Any, *args: Any) -> None:
    """Call `action(*args)` when this rank has logged this many games."""
    from snake_dist.evaluation.judging import game_log

    real, logged = game_log.GameLog.append, []

    def append(self: Any, episode: Any) -> None:
        real(self, episode)
        logged.append(episode)
        if len(logged) == number:
            action(*args)

    replace(game_log.GameLog, "append", append)


def at_rename(name: str, action: Callable[..., None], *args: Any) -> None:
    """Call `action(*args)` once before a file or directory gets this name."""
    real, done = os.rename, []

    def rename(source: Any, target: Any, **named: Any) -> None:
        if str(target).endswith(name) and not done:
            done.append(name)
            action(*args)
        real(source, target, **named)

    os.rename = rename
