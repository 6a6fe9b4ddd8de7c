"""Train a grid of settings, one run each, and report which setting plays better: docs/ablation.md."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from snake_dist.cli import parse_dataclass
from snake_dist.cluster import slurm_commands
from snake_dist.cluster.job_script import render
from snake_dist.cluster.local import run_all
from snake_dist.files import lock_directory


@dataclass(frozen=True)
class Ablate:
    """Train every run of a grid and compare them. The same command resumes an ablation that was stopped."""

    grid: tyro.conf.Positional[Path]
    """YAML file of the grid, or a ready one: adapters, data_sizes, presets."""
    output: Path | None = None
    """Directory of the runs and the result; default: logs/ablations/NAME."""
    slurm: bool = False
    """Queue the runs as one array of jobs, and behind it a job that writes the result."""
    table: bool = False
    """Run nothing, and write the result of the runs that are finished."""
    dry_run: bool = False
    """Print the commands, or with --slurm the scripts, and run nothing."""


def main(argv: list[str]) -> None:
    flags = parse_dataclass(Ablate, argv)

    from snake_dist.ablation.grid import read_ablation
    from snake_dist.ablation.runs import check_cells, commands, copy_grid, pending, table_job, write_results

    ablation = read_ablation(flags.grid, flags.output, sys.executable)
    check_cells(ablation, is_here=not flags.slurm and not flags.table)
    jobs = [(ablation.job, ablation.flags), table_job(ablation)]
    code = 0
    if flags.dry_run:
        scripts = (render(job, program_flags) for job, program_flags in jobs)
        print("".join(scripts) if flags.slurm else "\n".join(map(shlex.join, commands(ablation))))
        return
    copy_grid(ablation)
    if flags.slurm:
        queued: dict[str, str] = {}
        for job, program_flags in jobs:
            queued[job.job_name] = slurm_commands.write_and_submit(job, program_flags, queued)
            print(slurm_commands.receipt(job, program_flags, queued[job.job_name]))
        return
    if not flags.table:
        _lock = lock_directory(ablation.output, f"--output {ablation.output}")  # held until this function ends
        code = run_all(pending(ablation), keep_going=True)
    print(f"\n{write_results(ablation)}\nresult: {ablation.output / 'ablation.html'}")
    sys.exit(code)
