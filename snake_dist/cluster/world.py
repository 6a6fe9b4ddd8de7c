"""The ranks of a run: which one this process is, and the few collectives that are not about tensors.

Rank and world size come from the environment that deepspeed, torchrun and srun set. Plain `python` is a world of one.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from snake_dist.cluster.srun import is_srun, meeting_point, tasks_of_node
from snake_dist.cores import usable_cores
from snake_dist.errors import InputError, RankError

Value = TypeVar("Value")

COLLECTIVE_TIMEOUT = timedelta(hours=6)
"""Long, because rank 0 may tokenize or play for hours while the others wait in a collective."""
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
"""All ranks must have met by then."""


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run."""

    rank: int
    """0 <= rank < size, over all nodes."""
    local_rank: int
    """Rank within this node."""
    size: int
    """Number of processes."""
    local_size: int
    """Number of processes on this node."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def world_from_environment() -> World:
    """Read RANK, LOCAL_RANK and WORLD_SIZE (torchrun, deepspeed) or SLURM_PROCID and kin (srun).

    Raises InputError if a value is not a number or the rank is outside the world.
    """
    under_srun = "RANK" not in os.environ and is_srun()
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS") if under_srun else ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    values = [os.environ.get(name, default) for name, default in zip(names, ("0", "0", "1"), strict=True)]
    if not all(value.isdigit() for value in values):
        raise InputError(f"environment: {', '.join(names)} = {', '.join(values)}: must be whole numbers")
    # torchrun's name, DeepSpeed's, srun's.
    local_names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
    local_size = next((os.environ[name] for name in local_names if os.environ.get(name, "").isdigit()), values[2])
    local_size = (tasks_of_node() if under_srun else "") or local_size
    rank, local_rank, size = map(int, values)
    world = World(rank, local_rank, size, min(int(local_size), size))
    if world.rank >= world.size:
        raise InputError(
            f"environment: {names[0]}={world.rank} is outside a world of {names[2]}={world.size} processes"
        )
    return world


def set_meeting_point(world: World) -> None:
    """Set MASTER_ADDR and MASTER_PORT where the launcher did not. Raises InputError where they cannot be known."""
    if world.size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
    elif is_srun():
        host, port = meeting_point()
        os.environ.setdefault("MASTER_ADDR", host)
        os.environ.setdefault("MASTER_PORT", port)
    elif missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise InputError(
            f"environment: WORLD_SIZE={world.size} without {' and '.join(missing)}: start the ranks with deepspeed, "
            "torchrun or srun"
        )


def start_process_group(world: World) -> None:
    """Join the process group and take this rank's GPU.

    Tensors on a GPU go over NCCL; all else goes over gloo, which sees a lost rank at once and keeps no GPU busy while
    it waits. Raises InputError, on all ranks alike, if ranks outnumber GPUs, and on rank 0 if its port is taken.
    """
    import torch

    if torch.distributed.is_initialized():
        return
    _share_cores(world)
    os.environ.update(RANK=str(world.rank), LOCAL_RANK=str(world.local_rank), WORLD_SIZE=str(world.size))
    set_meeting_point(world)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        _take_gpu(world)
        # NCCL's flight recorder: what every rank was doing when one got stuck (cluster/watchdog.py writes it).
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed guesses and warns
    import deepspeed

    if not torch.cuda.is_available():
        # DeepSpeed would compile a shared-memory all-reduce for CPU ranks, anew at nearly every start (the flags
        # change their order), for a minute: an adapter's gradients are small enough for gloo.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _check_port(world)
    _meet(world, backend)
    if torch.cuda.is_available():
        _check_no_gpu_is_shared(world)
    # DeepSpeed takes the group over. verbose=False: the one line about MPI discovery is noise for users.
    deepspeed.init_distributed(
        "nccl" if torch.cuda.is_available() else "gloo",
        auto_mpi_discovery=False,
        timeout=COLLECTIVE_TIMEOUT,
        verbose=False,
    )


def _meet(world: World, backend: str) -> None:
    """Join the process group. Raises RankError if the ranks have not met in time: each rank says whom it missed."""
    import torch

    try:
        store, _, _ = next(torch.distributed.rendezvous("env://", world.rank, world.size, timeout=RENDEZVOUS_TIMEOUT))
        torch.distributed.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.size, timeout=COLLECTIVE_TIMEOUT
        )
    except RuntimeError as problem:  # torch has several types of it
        joined = re.search(r"(\d+)/\d+ clients joined", str(problem))
        missed = f"only {joined[1]} came" if joined else "rank 0, which listens there, was not reached or was lost"
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RankError(
            f"rank {world.rank} on {socket.gethostname()}: the {world.size} ranks did not meet at {place} within "
            f"{RENDEZVOUS_TIMEOUT.total_seconds():g} s: {missed} ({str(problem).splitlines()[0][:200]})"
        ) from problem


def end_process_group() -> None:
    """Leave the process group, all ranks together, at the end of a run that went well. A failed rank just exits."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gpu_index(world: World, num_visible_gpus: int) -> int:
    """Return the index of this rank's GPU among those it sees: its local rank, or 0 where it sees its own only.

    Raises InputError if the node has more ranks than GPUs.
    """
    if num_visible_gpus == 1:
        return 0
    if world.local_size > num_visible_gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise InputError(
            f"{world.local_size} ranks on {socket.gethostname()}, which shows {num_visible_gpus} GPUs"
            f"{'' if visible is None else f' (CUDA_VISIBLE_DEVICES={visible})'}: at most one rank per GPU"
        )
    return world.local_rank


def _take_gpu(world: World) -> None:
    import torch

    num_gpus = torch.cuda.device_count()
    index = gpu_index(world, num_gpus)
    if world.size == 1 and num_gpus > 1:
        print(unused_gpus(num_gpus, sys.argv), file=sys.stderr)
    torch.cuda.set_device(index)
    os.environ["LOCAL_RANK"] = str(index)  # trap: DeepSpeed takes it for the index of the GPU


def unused_gpus(num_gpus: int, argv: Sequence[str]) -> str:
    """Return the line that tells a single rank how the same program would have a rank on each GPU."""
    name, _, verb = argv[0].partition(" ")
    program = ["-m", "snake_dist", verb] if verb and name == "snake-dist" else [argv[0]]
    command = shlex.join(["torchrun", "--standalone", "--nproc-per-node", str(num_gpus), *program, *argv[1:]])
    return f"1 of {num_gpus} GPUs is used, by 1 rank. One rank on each: {command}"


def _check_no_gpu_is_shared(world: World) -> None:
    """Raise InputError, on all ranks alike, if two ranks have the same GPU: NCCL would refuse or hang."""
    import torch

    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    check_gpus_differ(gather((socket.gethostname(), uuid), world), world)


def check_gpus_differ(gpus: list[tuple[str, str]], world: World) -> None:
    """Raise InputError if two ranks name the same (host, GPU). The message is on rank 0 alone, as `agree` gives it."""
    for rank, gpu in enumerate(gpus):
        first = gpus.index(gpu)
        if first < rank:
            message = f"ranks {first} and {rank} have the same GPU on {gpu[0]}: at most one rank per GPU"
            raise InputError(message if world.is_main else "")


def _check_port(world: World) -> None:
    """Raise InputError if rank 0 cannot listen on MASTER_PORT: ranks that connect to another process would hang."""
    if not world.is_main or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun listens itself
        return
    port = os.environ.get("MASTER_PORT", "")
    try:
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", int(port)))
    except (OSError, ValueError, OverflowError) as problem:
        if isinstance(problem, OSError) and problem.errno not in (errno.EADDRINUSE, errno.EACCES):
            return  # the probe itself does not work on this machine (no IPv6), which says nothing of the port
        raise InputError(
            f"MASTER_PORT={port}: rank 0 cannot listen there on {socket.gethostname()} ({problem}): choose another "
            "port (deepspeed: --master_port)"
        ) from None


def _share_cores(world: World) -> None:
    """Give each rank of this node an equal share of the cores, unless the user or torchrun has set OMP_NUM_THREADS.

    The deepspeed launcher does not set it, and two ranks with all cores each wait for each other's threads.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // world.local_size))


def agree(world: World, work: Callable[[], Value], *, on_each_node: bool = False) -> Value:
    """Run `work` on rank 0 (or on the first rank of each node) and return rank 0's value on every rank.

    An InputError or OSError that `work` raises is raised on all ranks as an InputError, so that no rank waits and none
    continues. Only rank 0's error has the message, so that it is printed once under any launcher.
    """
    value: Any = None
    error: InputError | None = None
    if world.local_rank == 0 if on_each_node else world.is_main:
        try:
            value = work()
        except InputError as problem:
            error = problem
        except OSError as problem:
            error = InputError(str(problem))
    outcomes = gather((value, error), world)
    for _, raised in outcomes:
        if raised is not None:
            raise raised if world.is_main else type(raised)("")
    return outcomes[0][0]


def gather(value: Value, world: World) -> list[Value]:
    """Return the values of all ranks, in rank order, on every rank. The ranks exchange them pickled."""
    import torch

    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(values, value)
    return values


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
