"""What Slurm's environment says of the ranks that srun starts, where nobody has set the names of torch."""

from __future__ import annotations

import os
import re

_SPECIAL_STEPS = 0xFFFFFFF0
"""Slurm's numbers from here on are a job's own shells, such as salloc's, and no steps of srun."""
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000
"""Below the ports that Linux gives to whoever asks for any."""


def is_srun() -> bool:
    """Return whether srun started this process. A shell of salloc is no rank, though it has the number of the job's."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < _SPECIAL_STEPS


def tasks_of_node() -> str:
    """Return how many tasks of the step are on this node, "" where Slurm does not say.

    `2(x3),1` are two on each of three nodes and one on the last.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = [count for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    node = os.environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else ""


def meeting_point() -> tuple[str, str]:
    """Return (host, port) at which the ranks of the step meet: its first node, where rank 0 is, and its own port."""
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", os.environ.get("SLURM_STEP_NODELIST", ""))
    is_local = first is None or os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
    host = "127.0.0.1" if is_local or first is None else first[1] + (first[2] or "")
    job, step = os.environ.get("SLURM_JOB_ID", ""), int(os.environ["SLURM_STEP_ID"])
    number = 1009 * (int(job) if job.isdigit() else 0) + step
    return host, str(_FIRST_PORT + number % _NUM_PORTS)
