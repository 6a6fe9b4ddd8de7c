"""The benchmark of growth runs whole on tiny models: it takes a run's own steps, and follows them when they change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, run_program


@pytest.mark.slow
def test_every_part_of_the_scaling_benchmark_runs_in_small(tmp_path: Path) -> None:
    output = tmp_path / "scaling.json"
    command = [sys.executable, str(ROOT / "benchmarks/scaling.py"), "--quick", "--output", str(output)]
    done = run_program(command, tmp_path, timeout_s=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = json.loads(output.read_text())
    assert {"logits", "overhead", "collectives", "growth", "dataset"} <= set(parts)
