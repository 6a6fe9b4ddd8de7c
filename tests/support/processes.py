"""Where the repository is, and programs started from it as users start them: as processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
"""The console scripts of this Python's environment."""
TIMEOUT_S = 300.0
"""How long a test waits for something; on a busy machine it takes long."""


def launcher(name: str) -> list[str]:
    """The command that runs this launcher in plain Python, from any directory."""
    return [sys.executable, str(ROOT / f"launcher/{name}.py")]


def environment(**variables: str) -> dict[str, str]:
    """Ours, for a program that finds our console scripts first and is no launcher's rank."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    inherited = {name: value for name, value in os.environ.items() if name not in ranks}
    return inherited | {"PATH": f"{BIN}:{os.environ['PATH']}"} | variables


def run_program(
    command: Sequence[object], cwd: Path, timeout_s: float = TIMEOUT_S, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in `cwd` to its end; the caller looks at the exit code."""
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=timeout_s
    )


def free_port() -> int:
    """A port of this machine on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(reached: Callable[[], bool], complaint: Callable[[], str], timeout_s: float = TIMEOUT_S) -> None:
    """Ask five times a second; raise AssertionError with the complaint after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < end, complaint()
        time.sleep(0.2)
