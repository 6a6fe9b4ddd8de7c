"""What is asked of Slurm: submit, test, the facts of a job. Commands are argument lists; no shell reads them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from snake_dist.cluster.job import TRAIN, Job, array_tasks, split_output_dir
from snake_dist.cluster.slurm import render
from snake_dist.errors import InputError


def make_directories(job: Job, flags: list[str]) -> None:
    """Make the directories of logs and run. Slurm would fail a job whose log cannot be opened, without any log."""
    run, _ = split_output_dir(job, flags)
    try:
        for path in (Path(job.directory), Path(run).parent, *([Path(run)] if array_tasks(job) else [])):
            path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"--directory, --output-dir: {problem.filename}: {problem.strerror}") from None


def test_only(script: str) -> str:
    """When Slurm would start the script, in its words. Raises InputError if it refuses."""
    return _slurm(["sbatch", "--test-only"], script)[1]


def write_and_submit(job: Job, flags: list[str], queued: dict[str, str]) -> str:
    """Make directories and script, and queue it behind `job.after`; returns its job id.

    `queued`: job name -> id of what the same recipe has queued before. Raises InputError if Slurm refuses.
    """
    unknown = [name for name in job.after if name not in queued and not name.isdigit()]
    if unknown:
        raise InputError(f"--after {unknown[0]}: no job id, and no earlier job of the recipe")
    text = render(job, flags)
    # Behind other jobs in the queue, sbatch alone takes a job that no node could ever run.
    test_only(text)
    make_directories(job, flags)
    script_path(job).write_text(text, encoding="utf-8")
    after = ":".join(queued.get(name, name) for name in job.after)
    # Without --kill-on-invalid-dep a job behind a failed one would wait for ever.
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
    """What the user needs to know of a queued job."""
    lines = [f"job {job_id} ({job.job_name}) is queued", f"  log      {job.directory}/{job_id}.out"]
    if array_tasks(job):
        lines[1] = f"  logs     {job.directory}/{job_id}_0.out to {job_id}_{len(array_tasks(job)) - 1}.out"
    lines.append(f"  status   python launcher/submit.py status {job_id}")
    if job.program == TRAIN:
        lines.append(f"  run      {split_output_dir(job, flags)[0]}")
        lines.append(f"  resume   sbatch {script_path(job)}")
    return "\n".join(lines)


def job_facts(job: str) -> list[dict[str, str]]:
    """What Slurm knows of a job, or of each task of an array; [] if it does not know it (any more)."""
    try:
        shown, _ = _slurm(["scontrol", "-o", "show", "job", job])
    except InputError:
        return []
    return [dict(re.findall(r"(?:^| )([A-Za-z:/]+)=(\S*)", line)) for line in shown.splitlines()]


def _slurm(command: list[str], stdin: str = "") -> tuple[str, str]:
    """(stdout, stderr) of a Slurm command. SBATCH_* variables would overrule the script, and SLURM_* ones, inside
    another job, would be carried into this one: both stay outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "SLURM_"))}
    if "SLURM_CONF" in os.environ:
        kept["SLURM_CONF"] = os.environ["SLURM_CONF"]
    try:
        done = subprocess.run(command, input=stdin, env=kept, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise InputError(
            f"{command[0]}: not found on this machine; --dry-run prints the job, --local runs it"
        ) from None
    if done.returncode:
        raise InputError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip(), done.stderr.strip()
