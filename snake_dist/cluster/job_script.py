"""A job -> sbatch text: one pure function, `render`. Every value is checked against an allow-list and quoted.

What all jobs share is in `assets/*.sh`. These hold no value of a job: what varies are the shell variables set above
them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from snake_dist.cluster.job import (
    TRAIN,
    Job,
    array_tasks,
    check_job,
    program_words,
    ranks_per_node,
    split_output_dir,
    world_size,
)

EXPORTED = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER")
"""Variables of the submitting environment that a job receives besides --env: no key, token or proxy is among them."""
ASSETS = Path(__file__).parent / "assets"


def render(job: Job, flags: list[str]) -> str:
    """Return the sbatch script of `job`, whose program receives `flags`. Raises InputError as `check_job` does."""
    check_job(job)
    is_train = job.program == TRAIN
    lines = [
        "#!/bin/bash -l" if job.modules else "#!/bin/bash",
        f"# Written by launcher/submit.py. By hand: mkdir -p {shlex.quote(job.directory)} && sbatch THIS_FILE",
        *(["# Submitted again it resumes from the last checkpoint."] if is_train else []),
        *(f"#SBATCH {_directive(name, value)}" for name, value in _directives(job)),
        "",
        *_setup(job),
        "set -uo pipefail",
    ]
    own = []
    if is_train:
        run, flags = split_output_dir(job, flags)
        lines += _run_lines(job, run)
        own = ['    "${extra[@]}"', '    --output-dir "$run"']
    lines += ["command=(", *_laid_out([*program_words(job.program), *flags]), *own, ")"]
    if world_size(job) > 1:
        # Two jobs on one node must not meet, and a port held by a silent listener would hang the ranks: the script
        # binds it before use. Rank 0 is on the node that runs the script: nobody has to find the host by its name, and
        # the script reads on its own node what rank 0 has written. torchrun takes the node's rank from PET_NODE_RANK.
        lines += [f"nodes={job.nodes} ranks_per_node={ranks_per_node(job)}", "", _shared("rendezvous")]
    else:
        lines += ['program=("${python[@]}")']
    return "\n".join([*lines, "", _shared("preemptible_step" if is_train else "step"), ""])


def _shared(name: str) -> str:
    return (ASSETS / f"{name}.sh").read_text(encoding="utf-8").removesuffix("\n")


def _directives(job: Job) -> list[tuple[str, str | int | None]]:
    names = [item for item in job.env if "=" not in item]
    tasks, is_train = array_tasks(job), job.program == TRAIN
    options: list[tuple[str, str | int | None]] = [
        ("job-name", job.job_name),
        ("nodes", job.nodes),
        ("ntasks-per-node", 1),
        ("cpus-per-task", job.cpus_per_rank * ranks_per_node(job)),
        ("gpus-per-node", job.gpus_per_node or None),
        ("mem", job.memory),
        ("time", job.time),
        ("partition", job.partition),
        ("account", job.account),
        ("qos", job.qos),
        ("constraint", job.constraint),
        ("exclusive", "" if job.exclusive else None),
        ("array", f"0-{len(tasks) - 1}" if tasks else None),
        ("output", f"{job.directory}/{'%A_%a' if tasks else '%j'}.out"),
        ("open-mode", "append"),
        ("export", ",".join([*EXPORTED, *names])),
        ("signal", f"B:USR1@{job.signal_before_s}" if is_train else None),
        # A program that does not save must not start again over its half-written output.
        ("requeue" if is_train else "no-requeue", ""),
    ]
    return [(name, value) for name, value in options if value is not None]


def _directive(name: str, value: str | int | None) -> str:
    text = f'"{value}"' if re.search(r"[^A-Za-z0-9_./:@%,+=-]", str(value)) else str(value)
    return f"--{name}={text}" if text else f"--{name}"


def _setup(job: Job) -> list[str]:
    """Set modules, environment, interpreter: before `set -u`, under which module files and `activate` may fail."""
    settings = [item.partition("=") for item in job.env if "=" in item]
    if not any(name == "OMP_NUM_THREADS" for name, _, _ in settings):
        settings.insert(0, ("OMP_NUM_THREADS", "=", str(job.cpus_per_rank)))
    python = [*shlex.split(job.container or ""), job.python or "python"]
    return [
        *(f"module load {shlex.quote(module)} || exit 1" for module in job.modules),
        *([f"# shellcheck disable=SC1091\nsource {shlex.quote(job.venv)}/bin/activate || exit 1"] if job.venv else []),
        *(f"export {name}={shlex.quote(value)}" for name, _, value in settings),
        f"python=({shlex.join(python)})",
    ]


def _run_lines(job: Job, run: str) -> list[str]:
    """Name the run: its directory, the flags of this array task, the id that `scontrol` knows it by."""
    tasks = array_tasks(job)
    if not tasks:
        return [f"run={shlex.quote(run)} extra=() job=$SLURM_JOB_ID"]
    cases = [
        f"    {index}) run={shlex.quote(f'{run}/{name}')} extra=({shlex.join(flags)}) ;;"
        for index, (name, flags) in enumerate(tasks)
    ]
    # The SLURM_JOB_ID of an array's last task is the id of the whole array: requeueing it would requeue all tasks.
    job_line = "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    return ['case "$SLURM_ARRAY_TASK_ID" in', *cases, "    *) exit 1 ;;", "esac", job_line]


def _laid_out(words: list[str]) -> list[str]:
    """Quote the words for the shell, and write each flag with its values on a line."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("--"):
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(f"    {shlex.quote(word)}")
    return lines
