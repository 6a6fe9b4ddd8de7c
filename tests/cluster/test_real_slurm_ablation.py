"""launcher/ablate.py --slurm on a real Slurm: the array, and behind it the job that writes the result."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.ablations import PRESETS, with_trainer, write_grid
from tests.support.processes import ROOT


@pytest.mark.slow
def test_an_array_of_runs_ends_in_a_verdict(slurm, tmp_path):
    place = with_trainer(tmp_path)
    launch = {"cpus-per-rank": 1, "time": "00:20:00", "env": [f"PYTHONPATH={ROOT}"]}
    grid = write_grid(place, PRESETS | {"launch": launch})
    command = [sys.executable, "launcher/ablate.py", "grid.yaml", "--output", "out", "--slurm"]
    env = slurm.environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    array, table = re.findall(r"^job (\d+) ", done.stdout, re.MULTILINE)
    grid.write_text("for another ablation")  # the table is of the grid as it was queued
    assert slurm.facts(table)["JobState"] == "PENDING"
    slurm.wait(table, "COMPLETED", timeout_s=400)
    assert [slurm.facts(f"{array}_{task}")["JobState"] for task in range(4)] == ["COMPLETED"] * 4
    assert "preset: balanced beats lightweight by " in (place / "out/ablation.md").read_text()
    assert (place / "out/ablation.html").is_file()
