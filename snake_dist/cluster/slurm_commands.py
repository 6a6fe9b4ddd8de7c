"""Slurm's commands: submit a job, test it, show its fields. They are argument lists, which no shell reads."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from snake_dist.cluster.job import SUBMIT, TRAIN, Job, array_tasks, program_words, split_output_dir
from snake_dist.cluster.job_script import render
from snake_dist.errors import InputError
from snake_dist.files import write_text_atomically


def make_directories(job: Job, flags: list[str]) -> None:
    """Create the directories of the logs and the run: a job whose log Slurm cannot open fails without a message."""
    run, _ = split_output_dir(job, flags)
    try:
        for path in (Path(job.directory), Path(run).parent, *([Path(run)] if array_tasks(job) else [])):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"--directory, --output-dir: {problem.filename}: {problem.strerror}") from None


def test_only(script: str) -> str:
    """Return Slurm's message on when it would start the script. Raises InputError if Slurm rejects it."""
    return _slurm(["sbatch", "--test-only"], script)[1]


def write_and_submit(job: Job, flags: list[str], queued: dict[str, str]) -> str:
    """Create directories and script, queue the job behind `job.after`, and return its id.

    `queued`: name -> id of the jobs that the same recipe has queued before. Raises InputError if Slurm rejects the job.
    """
    unknown = [name for name in job.after if name not in queued and not name.isdigit()]
    if unknown:
        raise InputError(f"--after {unknown[0]}: neither a job id nor the name of an earlier job of the recipe")
    text = render(job, flags)
    # Behind other jobs in the queue, sbatch alone accepts a job that no node can ever run.
    test_only(text)
    make_directories(job, flags)
    write_text_atomically(script_path(job), text)
    after = ":".join(queued.get(name, name) for name in job.after)
    # Without --kill-on-invalid-dep a job behind a failed one waits for ever.
    dependency = [f"--dependency={job.after_kind}:{after}", "--kill-on-invalid-dep=yes"] if after else []
    try:
        printed, _ = _slurm(["sbatch", "--parsable", *dependency, str(script_path(job))])
    except InputError as problem:
        before = f" (queued before it: {', '.join(queued.values())})" if queued else ""
        raise InputError(f"{problem}{before}") from None
    return printed.split(";")[0]  # with ";cluster" in a federation


def script_path(job: Job) -> Path:
    return Path(job.directory) / f"{job.job_name}.sbatch"


def receipt(job: Job, flags: list[str], job_id: str) -> str:
    """Return the lines that tell the user where to look for a queued job."""
    lines = [f"job {job_id} ({job.job_name}) is queued", f"  log      {job.directory}/{job_id}.out"]
    if array_tasks(job):
        lines[1] = f"  logs     {job.directory}/{job_id}_0.out to {job_id}_{len(array_tasks(job)) - 1}.out"
    lines.append(f"  status   {' '.join(['python', *program_words(SUBMIT)])} status {job_id}")
    if job.program == TRAIN:
        lines.append(f"  run      {split_output_dir(job, flags)[0]}")
        lines.append(f"  resume   sbatch {script_path(job)}")
    return "\n".join(lines)


def job_facts(job: str) -> list[dict[str, str]]:
    """Return scontrol's fields of a job, or of each task of an array; [] if Slurm does not know the job (any more)."""
    try:
        shown, _ = _slurm(["scontrol", "-o", "show", "job", job])
    except InputError:
        return []
    return [dict(re.findall(r"(?:^| )([A-Za-z:/]+)=(\S*)", line)) for line in shown.splitlines()]


def _slurm(command: list[str], stdin: str = "") -> tuple[str, str]:
    """Run a Slurm command and return its (stdout, stderr). Raises InputError.

    The command receives no SBATCH_* variables, which would override the script, and no SLURM_* ones, which the job
    would inherit from the job that submits it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "SLURM_"))}
    if "SLURM_CONF" in os.environ:
        environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    try:
        done = subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(
            f"{command[0]}: not found on this machine; --dry-run prints the job, --local runs it"
        ) from None
    if done.returncode:
        raise InputError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip(), done.stderr.strip()
