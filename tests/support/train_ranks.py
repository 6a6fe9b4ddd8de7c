"""Ranks of `launcher/train.py` or another program: real processes over gloo that a test can kill, pause and break."""

from __future__ import annotations

import os
import re
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.faults import replace
from tests.support.processes import ROOT, TIMEOUT_S, free_port
from tests.support.ranks import fork_server
from tests.support.runs import tiny_flags

Fault = tuple[int, Callable[..., None], tuple[Any, ...]]
"""(rank, function that changes that rank's process before it starts, its arguments); see tests/support/faults.py."""


def flags_of(model: Path, data: Path, output: Path, **flags: Any) -> list[str]:
    """A run of 8 steps in fp32 with dropout, a checkpoint every other step and no games."""
    options: dict[str, Any] = {
        "ds": ROOT / "ds_configs/zero2.json",
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
    program: str = "train"
    processes: list[Any] = field(default_factory=list)

    def __enter__(self) -> Ranks:
        self.logs.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        for rank in range(self.world_size):
            faults = [(function, args) for where, function, args in self.faults if where == rank]
            args = (self.flags, rank, self.world_size, self.port, str(self.logs / f"rank-{rank}.log"), faults)
            process = fork_server.Process(target=_run_rank, args=(*args, self.program), daemon=True)
            process.start()
            self.processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def wait(self, timeout_s: float = TIMEOUT_S) -> list[int | None]:
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
    """Every error line of all ranks. Nobody stops the ranks here, as launchers do."""
    return re.findall(r"(?:[\w.]+: )?error: .*", printed)


def _run_rank(
    flags: list[str],
    rank: int,
    world_size: int,
    port: int,
    log: str,
    faults: list[tuple[Callable[..., None], tuple[Any, ...]]],
    program: str,
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

    from snake_dist import cli

    replace(cli, "WAIT_TO_BE_STOPPED_S", 0.0)
    torch.set_num_threads(1)
    for function, args in faults:
        function(*args)
    sys.argv = [f"{program}.py", *flags]
    runpy.run_path(str(ROOT / f"launcher/{program}.py"), run_name="__main__")
