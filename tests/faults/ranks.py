"""Ranks of `launcher/train.py` that can be killed, paused and broken: real processes that meet over gloo.

Faults are injected from here, by functions that change what a rank's process imports; the product has no hooks.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.ranks import _context
from tests.support.runs import tiny_flags

Fault = tuple[int, Callable[..., None], tuple[Any, ...]]
"""(rank, function that changes that rank's process before it starts, its arguments)."""


def flags_of(model: Path, data: Path, output: Path, **flags: Any) -> list[str]:
    """A run of 8 steps in fp32 with dropout, a checkpoint every other step and no games."""
    options: dict[str, Any] = {
        "ds": "ds_configs/zero2.json",
        "dropout": 0.3,
        "max_steps": 8,
        "resume": "auto",
        "save_every": 2,
        "rank_timeout_s": 120,
        **flags,
    }
    return tiny_flags(model, data, output, **options)


@dataclass
class Ranks:
    """The processes of one launch. Used as a context: none outlives it."""

    flags: list[str]
    world_size: int
    logs: Path
    faults: Sequence[Fault] = ()
    port: int = 0
    processes: list[Any] = field(default_factory=list)

    def __enter__(self) -> Ranks:
        self.logs.mkdir(parents=True, exist_ok=True)
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        for rank in range(self.world_size):
            faults = [(function, args) for where, function, args in self.faults if where == rank]
            args = (self.flags, rank, self.world_size, self.port, str(self.logs / f"rank-{rank}.log"), faults)
            process = _context.Process(target=_run_rank, args=args, daemon=True)
            process.start()
            self.processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def wait(self, timeout_s: float = 240) -> list[int | None]:
        """Exit code of each rank, None for one that still runs after `timeout_s`; negative: the signal it died of."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def signal(self, rank: int, number: int) -> None:
        os.kill(self.processes[rank].pid, number)

    def printed(self, rank: int | None = None) -> str:
        """What a rank printed; without one, all of them."""
        paths = sorted(self.logs.iterdir()) if rank is None else [self.logs / f"rank-{rank}.log"]
        return "".join(path.read_text(errors="replace") for path in paths)


def launch(flags: list[str], world_size: int, logs: Path, faults: Sequence[Fault] = (), **options: Any) -> Ranks:
    """Run to the end; the returned ranks have exit codes and print-outs."""
    with Ranks(flags, world_size, logs, faults, **options) as ranks:
        ranks.codes = ranks.wait()  # type: ignore[attr-defined]
    return ranks


def errors_of(printed: str) -> list[str]:
    """Every error line. Nobody stops the ranks here, as launchers do: what each of them met, each of them says."""
    return re.findall(r"(?:[\w.]+: )?error: .*", printed)


def _run_rank(
    flags: list[str],
    rank: int,
    world_size: int,
    port: int,
    log: str,
    faults: list[tuple[Callable[..., None], tuple[Any, ...]]],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    from snake_dist.run import config as run_config

    run_config.WAIT_TO_BE_STOPPED_S = 0.0
    torch.set_num_threads(1)
    for function, args in faults:
        function(*args)
    sys.argv = ["train.py", *flags]
    runpy.run_path("launcher/train.py", run_name="__main__")


# Faults.


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

    loop.training_step, loop.take_step = training_step, take_step


def record_ids(path: str) -> None:
    """Append the examples of every step that this process begins to the file."""
    from snake_dist.training import loop

    real_step = loop.training_step

    def training_step(engine: Any, dataset: Any, ids: Any, *positional: Any, **named: Any) -> Any:
        with open(path, "a") as file:
            file.write(json.dumps([named["step"] + 1, [int(i) for i in ids]]) + "\n")
        return real_step(engine, dataset, ids, *positional, **named)

    loop.training_step = training_step


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

    loop.training_step, loop.forward_trained = training_step, forward_trained


def out_of_memory() -> None:
    import torch

    from snake_dist.training import loop

    def forward_trained(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    loop.forward_trained = forward_trained


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
    """No file of this process may grow beyond so many bytes: writing fails as on a full disk, with EFBIG."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
