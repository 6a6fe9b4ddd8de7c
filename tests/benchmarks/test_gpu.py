"""The GPU benchmark runs whole in small, on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_job_of_the_gpu_benchmark_runs_in_small(tmp_path: Path) -> None:
    output = tmp_path / "gpu.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--tiny", "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert process.returncode == 0, process.stderr[-3000:]
    machine, *entries = (json.loads(line) for line in output.read_text().splitlines())
    assert machine["card"]
    # Contenders of other projects run where these are installed.
    not_ours = [entry for entry in entries if "skipped" in entry]
    assert all("trl" in entry["options"]["contender"] for entry in not_ours)
    done = {entry["group"]: entry for entry in entries if entry not in not_ours}
    assert not [entry for entry in entries if "error" in entry]
    assert set(done) == {"ceilings", "1B", "profile", "0.13B", "0.5B", "8B", "losses", "resume", "decode", "judge"}
    losses = [entry["losses"] for entry in entries if entry["group"] == "losses"]
    assert len(losses) == 2
    for found in losses:
        assert set(found) == {"zero_0", "zero_1", "zero_2", "zero_3"}
        for values in found.values():
            assert max(abs(a - b) for a, b in zip(values, losses[0]["zero_0"], strict=True)) < 1e-3
    assert done["resume"]["repeats"]
    assert done["resume"]["resumes"]
    assert "| 1B | snake_dist |" in process.stdout
