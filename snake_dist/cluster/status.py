"""The state of jobs and runs: Slurm's fields of the job, joined with the files of the run."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from snake_dist.cluster.job import LOGS
from snake_dist.cluster.slurm_commands import job_facts
from snake_dist.errors import InputError
from snake_dist.files import METRICS, RUN_FACTS, STATUS, SUMMARY


def describe(name: str) -> str:
    """Return a line for each job and run of a job id, a job's directory or a run's directory. Raises InputError."""
    path = Path(name)
    if path.is_dir():
        runs = find_runs(path)
        # The batch script notes each start beside the run: JOB RESTART TIME CHECKPOINT.
        started = {start[0] for run in runs if (start := last_start(run))}
        facts = [fact for job in sorted(started) for fact in job_facts(job)]
    elif re.fullmatch(r"\d+(_\d+)?", name):
        facts = job_facts(name)
        logs = [Path(fact["StdOut"]) for fact in facts] or sorted(Path(LOGS).glob(f"*/{name}.out"))
        if not facts and not logs:
            raise InputError(
                f"{name}: Slurm does not know this job, and {LOGS}/*/{name}.out does not exist: name its directory"
            )
        runs = [run for log in logs if (run := run_of_log(log))]
    else:
        raise InputError(f"{name}: neither a directory nor a job id")
    if not facts and not runs:
        raise InputError(f"{name}: no run has started in this directory")
    return "\n".join([*map(job_line, facts), *run_table(runs)])


def find_runs(directory: Path) -> list[Path]:
    """List the run directories at or below this one: those with a status.json."""
    return sorted(path.parent for depth in ("", "*/", "*/*/") for path in directory.glob(f"{depth}{STATUS}"))


def last_start(run: Path) -> list[str] | None:
    """Return the last start that the batch script recorded: [job, restart, unix time, newest checkpoint]."""
    try:
        return run.with_name(f"{run.name}.starts").read_text(encoding="utf-8").splitlines()[-1].split()
    except (OSError, IndexError):
        return None


def run_of_log(log: Path) -> Path | None:
    """Return the run's directory, which the job's log names; None while there is no log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^run directory: (.+); job ", text, re.MULTILINE)
    return Path(match[1]) if match else None


def job_line(facts: dict[str, str]) -> str:
    """Write one line on a job, from scontrol's fields."""
    job_id = facts["JobId"]
    if "ArrayJobId" in facts:
        job_id = f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}"
    reason = "" if facts["Reason"] == "None" else f" ({facts['Reason']})"
    nodes = "" if facts["NodeList"] in ("", "(null)") else f" on {facts['NodeList']}"
    return (
        f"job {job_id}  {facts['JobName']}  {facts['JobState']}{reason}{nodes}, restarts {facts['Restarts']}, "
        f"{facts['RunTime']} of {facts['TimeLimit']}, log {facts['StdOut']}"
    )


def run_table(runs: list[Path]) -> list[str]:
    """Write a line for each run, sorted by held-out loss; runs without one come last."""
    rows = [progress(run) for run in runs]
    rows.sort(key=lambda row: (row["held_out_loss"] is None, row["held_out_loss"] or 0.0))
    return [run_line(row) for row in rows]


def run_line(row: dict[str, Any]) -> str:
    parts = [f"{row['state']}", f"step {row['step']} of {row['num_steps']}"]
    parts += [f"loss {row['loss']:.4f}"] if row["loss"] is not None else []
    parts += [f"held-out loss {row['held_out_loss']:.4f}"] if row["held_out_loss"] is not None else []
    parts += [f"{row['apples']:.2f} apples a game"] if row["apples"] is not None else []
    parts += [f"about {timedelta(seconds=round(row['left_s']))} left"] if row["left_s"] is not None else []
    parts += [f"{row['checkpoint']}"] if row["checkpoint"] else []
    parts += [row["reason"]] if row["reason"] else []
    return f"run {row['run']}  {', '.join(parts)}"


def progress(run: Path) -> dict[str, Any]:
    """Read state, step, losses and seconds left from the run's status.json, metrics.jsonl and summary.json."""
    status = _read_json(run / STATUS)
    logged = _read_metrics(run / METRICS)
    steps = [entry["step"] for entry in logged if "train/loss" in entry]
    num_steps = int(status.get("num_steps") or 0)
    step = max([int(status.get("step") or 0), *steps[-1:]])
    summary = _read_json(run / SUMMARY)
    players = summary.get("play", {}).get("players", {})
    return {
        "run": run,
        "state": status.get("state", "not started"),
        "step": step,
        "num_steps": num_steps,
        "loss": _last(logged, "train/loss"),
        "held_out_loss": _last(logged, "eval/loss"),
        "apples": players.get("adapter", {}).get("apples", {}).get("mean"),
        "left_s": _seconds_left(run, step, num_steps) if status.get("state") == "training" else None,
        "checkpoint": status.get("checkpoint"),
        "reason": status.get("reason"),
    }


def _seconds_left(run: Path, step: int, num_steps: int) -> float | None:
    """Extrapolate from the steps and seconds between this start and the last logged line; None without both."""
    start = last_start(run)
    if start is None or not (run / METRICS).exists():
        return None
    first = int(start[3].removeprefix("step-")) if start[3].removeprefix("step-").isdigit() else 0
    if step <= first:
        return None
    # run.json is written once the model is loaded; until then it is that of the start before.
    loaded = (run / RUN_FACTS).stat().st_mtime if (run / RUN_FACTS).exists() else 0.0
    elapsed = (run / METRICS).stat().st_mtime - max(float(start[2]), loaded)
    return max(0.0, elapsed) / (step - first) * (num_steps - step)


def _read_json(path: Path) -> dict[str, Any]:
    """Return the file's object; {} if the file does not exist. Writers replace these files whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the log's complete lines: the last one may still be being written."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _last(logged: list[dict[str, Any]], name: str) -> float | None:
    return next((entry[name] for entry in reversed(logged) if name in entry), None)
