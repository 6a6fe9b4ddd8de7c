"""Run a function on real ranks: processes that meet over gloo on this machine."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

from tests.support.processes import TIMEOUT_S, free_port

# A fork server that has imported the heavy libraries once: later ranks start in a second.
fork_server = multiprocessing.get_context("forkserver")
fork_server.set_forkserver_preload(["torch", "deepspeed", "peft", "transformers", "tests.support.warm_ranks"])


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """[function(*args) of each rank]. The function must be importable. Raises AssertionError with the traceback
    of the first rank that failed, or after `TIMEOUT_S` seconds."""
    port = free_port()
    pipes = [fork_server.Pipe(duplex=False) for _ in range(world_size)]
    ranks = [
        fork_server.Process(target=_rank, args=(function, args, rank, world_size, port, pipe[1]), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    try:
        outcomes = []
        for rank, (receiver, _) in enumerate(pipes):
            assert receiver.poll(TIMEOUT_S), f"rank {rank} of {world_size} said nothing for {TIMEOUT_S} s"
            value, error = receiver.recv()
            assert error is None, f"rank {rank} of {world_size}:\n{error}"
            outcomes.append(value)
        return outcomes
    finally:
        for process in ranks:
            process.join(timeout=10)
            process.kill()


def _rank(
    function: Callable[..., Any], args: tuple[Any, ...], rank: int, world_size: int, port: int, pipe: Any
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send((function(*args), None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
