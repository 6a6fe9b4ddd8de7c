"""Run a job on Slurm, on this machine (--local) or on the hosts of a file (--hostfile). train.py's flags follow --."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from snake_dist.cli import parse_dataclass
from snake_dist.cluster import slurm_commands
from snake_dist.cluster.job import TRAIN, Job, array_tasks, complete_job, world_size
from snake_dist.cluster.job_script import render
from snake_dist.cluster.local import commands_for, run_all
from snake_dist.cluster.status import describe
from snake_dist.recipes import read_job_recipe, recipe_path
from snake_dist.run.config import check_run_flags


@dataclass(frozen=True)
class Submit:
    """Queue a job on Slurm, or run it without. `submit.py status JOB_OR_DIRECTORY ...` shows the state of jobs."""

    job: Job = field(default_factory=Job)
    recipe: Path | None = None
    """YAML file with these flags and, under `run`, those of the program; flags of the command line win. Ready ones:
    single_node, multi_node, qlora_zero3_multi_node, ablation_array, chain."""
    dry_run: bool = False
    """Print the script or the command, and run nothing."""
    test_only: bool = False
    """Ask Slurm whether it would accept the job, and queue nothing."""
    local: bool = False
    """Run at once on this machine, with the ranks of one node."""
    launcher: Literal["torchrun", "deepspeed"] = "torchrun"
    """Launcher of the ranks with --local; --hostfile needs deepspeed."""
    hostfile: Path | None = None
    """File with lines HOST slots=GPUS: run on these hosts without Slurm, through the deepspeed launcher and ssh."""


def read_jobs(argv: list[str]) -> list[tuple[Submit, Job, list[str]]]:
    """Return (submit.py's flags, the job, the program's flags) of each job, once all are checked. Raises InputError."""
    at = argv.index("--") if "--" in argv else len(argv)
    own, given = argv[:at], argv[at + 1 :]
    recipe = parse_dataclass(Submit, own).recipe
    parts = read_job_recipe(recipe_path(recipe, "slurm"), given) if recipe else [([], given)]
    jobs = []
    for flags, program_flags in parts:
        submit = parse_dataclass(Submit, [*flags, *own])
        job = complete_job(submit.job, datetime.now(), sys.executable)
        for _, own_flags in (array_tasks(job) or [("", [])]) if job.program == TRAIN else []:
            check_run_flags([*program_flags, *own_flags], world_size(job))
        jobs.append((submit, job, program_flags))
    return jobs


def main(argv: list[str]) -> None:
    if argv[:1] == ["status"]:
        print("\n".join(describe(name) for name in argv[1:]))
        return
    queued: dict[str, str] = {}
    for submit, job, flags in read_jobs(argv):
        if submit.local or submit.hostfile:
            commands = commands_for(job, flags, submit.launcher, None if submit.local else submit.hostfile)
            if submit.dry_run:
                print("\n".join(map(shlex.join, commands)))
            elif code := run_all(commands):
                sys.exit(code)
        elif submit.dry_run:
            print(render(job, flags), end="")
        elif submit.test_only:
            print(slurm_commands.test_only(render(job, flags)))
        else:
            queued[job.job_name] = slurm_commands.write_and_submit(job, flags, queued)
            print(slurm_commands.receipt(job, flags, queued[job.job_name]))
