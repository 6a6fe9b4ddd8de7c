"""What a job is: a typed, checked description. `cluster.slurm` writes it as a batch script."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from snake_dist.errors import InputError, check_at_least

TRAIN = "launcher/train.py"
PLAY = "launcher/play.py"
LOGS = "logs/slurm"


@dataclass(frozen=True)
class Job:
    """One job, or one array of equal jobs."""

    job_name: str = ""
    """Letters, digits, . _ -."""
    nodes: int = 1
    """Machines."""
    gpus_per_node: int = 0
    """GPUs asked for on each node; 0: none, a run on CPUs."""
    ranks_per_node: int | None = None
    """Training processes on each node; default: one a GPU, one without GPUs."""
    cpus_per_rank: int = 4
    """CPU cores for each rank."""
    memory: str | None = None
    """Memory per node: a number with K, M, G or T; default: what the partition gives."""
    time: str = "04:00:00"
    """Time limit as Slurm writes it: MINUTES, H:M:S, D-H, D-H:M:S."""
    signal_before_s: int = 300
    """Seconds before the time limit at which training is told to save and is queued again; Slurm rounds to minutes."""
    partition: str | None = None
    """Partition, or several with commas; default: the cluster's."""
    account: str | None = None
    """Account that pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features, as for sbatch."""
    exclusive: bool = False
    """Whole nodes: nobody else's jobs on them."""
    modules: tuple[str, ...] = ()
    """Environment modules to load."""
    venv: str | None = None
    """Virtual environment to activate; its `python` runs the program."""
    container: str | None = None
    """Words put before python on every node, such as "apptainer exec --nv image.sif"."""
    python: str = ""
    """Interpreter on the nodes; default: the venv's, the container's or the modules' `python`, else this one."""
    env: tuple[str, ...] = ()
    """NAME: pass the variable on to the job (Slurm stores its value); NAME=VALUE: set it, readable in the script."""
    seeds: tuple[int, ...] = ()
    """An array with one run a seed."""
    variants: tuple[str, ...] = ()
    """An array with one run a variant, each "NAME=FLAGS", such as "dora=--adapter dora --rank 8"; times the seeds."""
    after: tuple[str, ...] = ()
    """Start only after these: job ids, or names of earlier jobs of the recipe."""
    after_kind: Literal["afterok", "afterany"] = "afterok"
    """afterok: all succeeded, else this job is removed; afterany: all ended, however."""
    directory: str = ""
    """Where script, logs and run go; default: logs/slurm/JOB_NAME_TIMESTAMP."""
    program: str = TRAIN
    """Program of the repository. Only launcher/train.py and play.py run on several ranks; only train.py is queued
    again."""


_WORD = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"
_PATH = r"[^\x00-\x1f\x7f\"'\\%#]+"
_ALLOWED = {
    "job_name": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "up to 64 letters, digits, . _ -"),
    "partition": (r"[A-Za-z0-9][A-Za-z0-9._,-]*", "letters, digits, . _ - and commas"),
    "account": (_WORD, "letters, digits, . _ @ + -"),
    "qos": (_WORD, "letters, digits, . _ @ + -"),
    "constraint": (r"[A-Za-z0-9._&|()\[\]*,:-]+", "feature names and & | * ( ) [ ] ,"),
    "memory": (r"\d+[KMGT]?", "a number with K, M, G or T, such as 64G"),
    "time": (r"\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+){0,2}", "MINUTES, M:S, H:M:S, D-H, D-H:M or D-H:M:S"),
    "modules": (r"[A-Za-z0-9][A-Za-z0-9._+/-]*", "names such as cuda/12.4"),
    "venv": (_PATH, "a path without quotes, backslashes, % or #"),
    "env": (r"[A-Za-z_][A-Za-z0-9_]*(=[^\x00-\x1f\x7f]*)?", "NAME or NAME=VALUE, in one line"),
    "variants": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}=[^\x00-\x1f\x7f]*", "NAME=FLAGS"),
    "after": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "job ids, or names of the recipe's jobs"),
    "directory": (_PATH, "a path without quotes, backslashes, % or #"),
    "program": (_PATH, "a path without quotes, backslashes, % or #"),
    "python": (f"({_PATH})?", "a path without quotes, backslashes, % or #"),
}


def check(job: Job) -> None:
    """Raise InputError for a value that no job can have, or that could be read as anything but a value."""
    for field in fields(job):
        flag, value = f"--{field.name.replace('_', '-')}", getattr(job, field.name)
        for item in value if isinstance(value, tuple) else [] if value is None else [value]:
            if field.name in _ALLOWED and not re.fullmatch(_ALLOWED[field.name][0], item):
                raise InputError(f"{flag} {item!r}: {_ALLOWED[field.name][1]}")
    check_at_least(job, nodes=1, gpus_per_node=0, ranks_per_node=1, cpus_per_rank=1, signal_before_s=60, seeds=0)
    if ranks_per_node(job) > 1 and job.gpus_per_node and ranks_per_node(job) != job.gpus_per_node:
        raise InputError(
            f"--ranks-per-node {job.ranks_per_node}: one rank a GPU, --gpus-per-node is {job.gpus_per_node}"
        )
    if world_size(job) > 1 and job.program not in (TRAIN, PLAY):
        raise InputError(
            f"--program {job.program} with {world_size(job)} ranks: only {TRAIN} and {PLAY} run on several; "
            "--ranks-per-node 1"
        )
    if time_limit_s(job.time) < job.signal_before_s + 60:
        raise InputError(
            f"--time {job.time}: more than --signal-before-s {job.signal_before_s} and a minute, or nothing is trained"
        )
    names = [name for name, _ in array_tasks(job)]
    if len(set(names)) < len(names):
        raise InputError(f"--variants, --seeds: two runs of the array are called {max(names, key=names.count)}")


def complete(job: Job, now: datetime, this_python: str) -> Job:
    """The job with its defaults filled in, checked. Raises InputError."""
    job = replace(
        job,
        directory=job.directory or f"{LOGS}/{job.job_name}_{now:%Y%m%d_%H%M%S}",
        python=job.python or ("python" if job.venv or job.container or job.modules else this_python),
    )
    check(job)
    if not Path(job.program).is_file():
        raise InputError(f"--program {job.program}: no such file here: submit from the repository's root")
    return job


def ranks_per_node(job: Job) -> int:
    return job.ranks_per_node or max(1, job.gpus_per_node)


def world_size(job: Job) -> int:
    return job.nodes * ranks_per_node(job)


def time_limit_s(time: str) -> int:
    """Seconds of a Slurm time limit (the forms that `man sbatch` lists under --time)."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # D-H[:M[:S]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:  # M, M:S or H:M:S
        hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def array_tasks(job: Job) -> list[tuple[str, list[str]]]:
    """(name of the run, its own flags) of each array task; [] if the job is no array. Raises InputError."""
    try:
        variants = [(name, shlex.split(flags)) for name, _, flags in (item.partition("=") for item in job.variants)]
    except ValueError as problem:
        raise InputError(f"--variants: {problem}") from None
    seeds = [(f"seed-{seed}", ["--seed", str(seed)]) for seed in job.seeds]
    lists = [options for options in (variants, seeds) if options]
    if not lists:
        return []
    return [
        ("-".join(name for name, _ in choice), [flag for _, flags in choice for flag in flags])
        for choice in itertools.product(*lists)
    ]


def split_output_dir(job: Job, flags: list[str]) -> tuple[str, list[str]]:
    """(the run's directory, train.py's flags without it and with --resume); an array's tasks have theirs below it."""
    owned = ("--output-dir=", "--resume=")
    flags = [part for flag in flags for part in (flag.split("=", 1) if flag.startswith(owned) else [flag])]
    flags = flags if "--resume" in flags else [*flags, "--resume", "auto"]
    if "--output-dir" not in flags:
        return f"{job.directory}/run", flags
    at = flags.index("--output-dir")
    if at + 1 == len(flags) or not re.fullmatch(_PATH, flags[at + 1]):
        raise InputError("--output-dir: a path without quotes, backslashes, % or # is expected after it")
    return flags[at + 1].rstrip("/"), flags[:at] + flags[at + 2 :]
