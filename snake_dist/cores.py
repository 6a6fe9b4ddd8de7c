"""The cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Count the cores that this process may run on: a cluster or a container may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
