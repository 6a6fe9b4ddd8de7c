"""A job: a typed, checked description, which `cluster.job_script` writes as a batch script."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass, fields, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from snake_dist.errors import InputError, check_at_least

TRAIN = "launcher/train.py"
PLAY = "launcher/play.py"
SUBMIT = "launcher/submit.py"
LOGS = "logs/slurm"


@dataclass(frozen=True)
class Job:
    """One job, or an array of jobs that differ only in the flags of their runs."""

    job_name: str = ""
    """Name of the job: letters, digits, . _ -. Default: the program's name."""
    nodes: int = 1
    """Number of nodes."""
    gpus_per_node: int = 0
    """GPUs on each node; 0 runs on CPUs."""
    ranks_per_node: int | None = None
    """Training processes on each node; default: one per GPU, or one without GPUs."""
    cpus_per_rank: int = 4
    """CPU cores for each rank."""
    memory: str | None = None
    """Memory per node: a number with K, M, G or T; default: the partition's."""
    time: str = "04:00:00"
    """Time limit in Slurm's format: MINUTES, H:M:S, D-H, D-H:M:S."""
    signal_before_s: int = 300
    """Seconds before the time limit at which training saves and is queued again; Slurm rounds them to minutes."""
    partition: str | None = None
    """Partition, or several separated by commas; default: the cluster's."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features, in the syntax of sbatch."""
    exclusive: bool = False
    """Reserve whole nodes: no other job runs on them."""
    modules: tuple[str, ...] = ()
    """Environment modules to load."""
    venv: str | None = None
    """Virtual environment to activate; its `python` runs the program."""
    container: str | None = None
    """Command to put before python on every node, such as "apptainer exec --nv image.sif"."""
    python: str = ""
    """Python interpreter on the nodes; default: `python` of the venv, the container or the modules, else this one."""
    env: tuple[str, ...] = ()
    """NAME passes the variable to the job (Slurm stores its value); NAME=VALUE sets it (the script shows the value)."""
    seeds: tuple[int, ...] = ()
    """Submit an array with one run per seed."""
    variants: tuple[str, ...] = ()
    """Submit an array with one run per variant, each "NAME=FLAGS" such as "dora=--adapter dora", and per seed."""
    after: tuple[str, ...] = ()
    """Start only after these jobs: job ids, or names of earlier jobs of the recipe."""
    after_kind: Literal["afterok", "afterany"] = "afterok"
    """afterok: start once all of them succeeded, or remove this job; afterany: start once all of them ended."""
    directory: str = ""
    """Directory of the script, the logs and the run; default: logs/slurm/JOB_NAME_TIMESTAMP."""
    program: str = TRAIN
    """Verb, such as play, or a program's file. Only train and play run on several ranks; only train is queued again."""


_WORD = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"
_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Control characters, and all that any reader takes for the end of a line."""
_PATH = rf"[^{_CONTROLS}\"'\\%#]+"
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
    "env": (rf"[A-Za-z_][A-Za-z0-9_]*(=[^{_CONTROLS}]*)?", "NAME or NAME=VALUE, in one line"),
    "variants": (rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,127}}=[^{_CONTROLS}]*", "NAME=FLAGS"),
    "after": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "job ids, or names of the recipe's jobs"),
    "directory": (_PATH, "a path without quotes, backslashes, % or #"),
    "program": (_PATH, "a path without quotes, backslashes, % or #"),
    "python": (f"({_PATH})?", "a path without quotes, backslashes, % or #"),
}


def check_job(job: Job) -> None:
    """Raise InputError for a value that no job can have, or that bash or Slurm could read as more than a value."""
    for field in fields(job):
        flag, value = f"--{field.name.replace('_', '-')}", getattr(job, field.name)
        for item in value if isinstance(value, tuple) else [] if value is None else [value]:
            if field.name in _ALLOWED and not re.fullmatch(_ALLOWED[field.name][0], item):
                raise InputError(f"{flag} {item!r}: {_ALLOWED[field.name][1]}")
    check_at_least(job, nodes=1, gpus_per_node=0, ranks_per_node=1, cpus_per_rank=1, signal_before_s=60, seeds=0)
    if ranks_per_node(job) > 1 and job.gpus_per_node and ranks_per_node(job) != job.gpus_per_node:
        raise InputError(
            f"--ranks-per-node {job.ranks_per_node}: must equal --gpus-per-node {job.gpus_per_node}, one rank per GPU"
        )
    if world_size(job) > 1 and job.program not in (TRAIN, PLAY):
        raise InputError(
            f"--program {job.program} with {world_size(job)} ranks: only {TRAIN} and {PLAY} run on several "
            "ranks; use --ranks-per-node 1"
        )
    if time_limit_s(job.time) < job.signal_before_s + 60:
        raise InputError(
            f"--time {job.time}: must be at least a minute longer than --signal-before-s {job.signal_before_s}"
        )
    names = [name for name, _ in array_tasks(job)]
    if len(set(names)) < len(names):
        raise InputError(f"--variants, --seeds: two runs of the array have the name {max(names, key=names.count)}")


def complete_job(job: Job, now: datetime, this_python: str) -> Job:
    """Fill in the job's defaults and check it. Raises InputError."""
    if re.fullmatch(r"[a-z-]+", job.program) and _is_verb(job.program):
        job = replace(job, program=f"launcher/{job.program.replace('-', '_')}.py")
    job = replace(job, job_name=job.job_name or Path(job.program).stem)
    job = replace(
        job,
        directory=job.directory or f"{LOGS}/{job.job_name}_{now:%Y%m%d_%H%M%S}",
        python=job.python or ("python" if job.venv or job.container or job.modules else this_python),
    )
    check_job(job)
    if not Path(job.program).is_file() and not _is_verb(Path(job.program).stem):
        raise InputError(f"--program {job.program}: no such file, and no verb of snake-dist")
    return job


def program_words(program: str) -> list[str]:
    """Return the words after `python` that run this file of the repository, or the installed verb where it is not."""
    if Path(program).is_file():
        return [program]
    return ["-m", "snake_dist", Path(program).stem.replace("_", "-")]


def _is_verb(name: str) -> bool:
    module = name.replace("-", "_")
    return module.isidentifier() and module[0] != "_" and find_spec(f"snake_dist.verbs.{module}") is not None


def ranks_per_node(job: Job) -> int:
    return job.ranks_per_node or max(1, job.gpus_per_node)


def world_size(job: Job) -> int:
    return job.nodes * ranks_per_node(job)


def time_limit_s(limit: str) -> int:
    """Convert a Slurm time limit, in any format that `man sbatch` lists under --time, to seconds."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # D-H[:M[:S]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:  # M, M:S or H:M:S
        hours, minutes, seconds = parts if len(parts) == 3 else (0, *parts, 0)[:3]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def array_tasks(job: Job) -> list[tuple[str, list[str]]]:
    """Return (name of the run, its own flags) of each array task; [] unless the job is an array. Raises InputError."""
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
    """Return the run's directory, and train.py's flags without it and with --resume.

    The tasks of an array have their directories below it. Raises InputError.
    """
    owned = ("--output-dir=", "--resume=")
    flags = [part for flag in flags for part in (flag.split("=", 1) if flag.startswith(owned) else [flag])]
    flags = flags if "--resume" in flags else [*flags, "--resume", "auto"]
    if "--output-dir" not in flags:
        return f"{job.directory}/run", flags
    at = flags.index("--output-dir")
    if at + 1 == len(flags) or not re.fullmatch(_PATH, flags[at + 1]):
        raise InputError("--output-dir: must be followed by a path without quotes, backslashes, % or #")
    return flags[at + 1].rstrip("/"), flags[:at] + flags[at + 2 :]
