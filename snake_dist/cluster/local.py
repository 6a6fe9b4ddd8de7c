"""A job without Slurm: command lines for this machine, or for the hosts of a hostfile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from snake_dist.cluster.job import TRAIN, Job, array_tasks, program_words, ranks_per_node, split_output_dir
from snake_dist.cores import usable_cores
from snake_dist.errors import InputError


def commands_for(job: Job, flags: list[str], launcher: str, hostfile: Path | None) -> list[list[str]]:
    """Return the command of the job, or of each task of an array: on the hosts of the file, or on this machine.

    This machine runs the ranks of one node: the global batch does not depend on their number, so the run trains on
    the same examples. Raises InputError for a hostfile that does not have the job's nodes.
    """
    ranks = str(ranks_per_node(job))
    if hostfile:
        if launcher != "deepspeed":
            raise InputError(f"--hostfile {hostfile}: needs --launcher deepspeed")
        check_hostfile(hostfile, job)
        hosts = ["--hostfile", str(hostfile), "--num_nodes", str(job.nodes)]
        start = ["deepspeed", *hosts, "--num_accelerators", ranks]
    else:
        start = start_ranks(launcher, int(ranks))
    start += program_words(job.program)
    if start[0] == "deepspeed":
        start = ["--module" if word == "-m" else word for word in start]
    if job.program != TRAIN:
        return [[*start, *flags]]
    run, flags = split_output_dir(job, flags)
    tasks = [(f"{run}/{name}", own) for name, own in array_tasks(job)] or [(run, [])]
    return [[*start, *flags, *own, "--output-dir", directory] for directory, own in tasks]


def start_ranks(launcher: str, num_ranks: int) -> list[str]:
    """Return the words before a program that start it on this many ranks of this machine.

    By default torchrun gives each rank one thread. Here each rank gets an equal share of this process's threads: of
    OMP_NUM_THREADS if it is set, as in a Slurm job, or of the usable cores.
    """
    if num_ranks == 1:
        return [sys.executable]
    if launcher == "deepspeed":
        return ["deepspeed", "--num_accelerators", str(num_ranks)]
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, (int(given) if given.isdigit() else usable_cores()) // num_ranks)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    return ["env", f"OMP_NUM_THREADS={threads}", *torchrun]


def check_hostfile(hostfile: Path, job: Job) -> None:
    """Raise InputError unless the file has the job's nodes and ranks. deepspeed itself ignores a missing file."""
    try:
        lines = [line.strip() for line in hostfile.read_text(encoding="utf-8").splitlines()]
    except OSError as problem:
        raise InputError(f"--hostfile {hostfile}: {problem.strerror}") from None
    hosts = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    for number, line in hosts:
        match = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\s+slots=(\d+)", line)
        if not match:
            raise InputError(f"--hostfile {hostfile}:{number}: {line!r}: must be HOST slots=GPUS")
        if int(match[1]) < ranks_per_node(job):
            raise InputError(f"--hostfile {hostfile}:{number}: {line!r}: must have slots={ranks_per_node(job)} or more")
    if len(hosts) < job.nodes:
        raise InputError(f"--hostfile {hostfile}: {len(hosts)} hosts for --nodes {job.nodes}")


def run_all(commands: Iterable[list[str]], *, keep_going: bool = False) -> int:
    """Run the commands one after another, and return the exit code of the first that failed, or 0.

    Without `keep_going` the first failure is the end. SIGTERM is passed on to the running command, and is the end too.
    """
    first_failure, asked_to_stop = 0, False
    for command in commands:
        if asked_to_stop:
            break
        with subprocess.Popen(command) as child:

            def pass_on(number: int, _frame: FrameType | None, child: subprocess.Popen[bytes] = child) -> None:
                nonlocal asked_to_stop
                asked_to_stop = True
                child.send_signal(number)

            signal.signal(signal.SIGTERM, pass_on)
            code = child.wait()
        first_failure = first_failure or (code if code >= 0 else 128 - code)
        if asked_to_stop or (code and not keep_going):
            break
    return first_failure
