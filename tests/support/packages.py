"""What some tests need of the machine: commands, installed as the distribution's packages where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest


def install(commands: Sequence[str], packages: Sequence[str]) -> str | None:
    """Install the packages if a command is missing. Returns why that is impossible, or None if all are there."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [command for command in commands if not shutil.which(command, path=path)]
    if not missing:
        return None
    lacking = f"{', '.join(missing)}: not installed"
    if not shutil.which("apt-get"):
        return f"{lacking}, and there is no apt-get to install {' '.join(packages)}"
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and not shutil.which("sudo"):
        return f"{lacking}: as root, apt-get install {' '.join(packages)}"
    apt_get = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run([*apt_get, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"apt-get install {' '.join(packages)} failed: {(done.stderr or done.stdout).strip()[-300:]}"
    return None


def skip_or_fail(variable: str, impossible: str | None) -> None:
    """Skip the test for this reason, if there is one; fail instead where the variable says `required`, as in CI."""
    if impossible:
        assert os.environ.get(variable) != "required", impossible
        pytest.skip(impossible)
