"""launcher/ablate.py as users type it, with a trainer that trains nothing but keeps train.py's contract."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.ablations import PRESETS, TRAINER, with_trainer, write_grid
from tests.support.processes import ROOT, TIMEOUT_S, environment, launcher, run_program, wait_until
from tests.support.runs import tiny_data

ABLATE = [*launcher("ablate"), "grid.yaml", "--output", "out"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return with_trainer(tmp_path)


def ablate(place: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return run_program([*ABLATE, *flags], place)


def started(place: Path) -> list[int]:
    """How often each run was started."""
    runs = [f"preset-{preset}-seed-{seed}" for preset in ("lightweight", "balanced") for seed in (0, 1)]
    logs = [place / f"out/{run}.started.0" for run in runs]
    return [len(log.read_text().splitlines()) if log.exists() else 0 for log in logs]


def test_a_stopped_ablation_goes_on_to_its_verdict(place):
    """SIGTERM in its second run; the same command again, in which the third run fails."""
    second = place / "out/preset-lightweight-seed-1"
    slow = '{"steps": 500, "step_s": 0.05}'
    trainer = f"import pathlib, sys\nif 'seed-1' in sys.argv[-1]: pathlib.Path('stub.json').write_text({slow!r})\n"
    (place / "launcher/train.py").write_text(trainer + TRAINER)
    with subprocess.Popen(ABLATE, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        wait_until((second / "metrics.jsonl").exists, lambda: "the second run did not start")
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert json.loads((second / "status.json").read_text())["state"] == "stopped"
    assert "preset-lightweight-seed-1: stopped at step" in printed
    assert started(place) == [1, 1, 0, 0]

    (place / "stub.json").write_text('{"steps": 3, "step_s": 0}')
    trainer = "import sys\nif 'balanced-seed-0' in sys.argv[-1]: sys.exit(3)\n"
    (place / "launcher/train.py").write_text(trainer + TRAINER)
    done = ablate(place)
    assert done.returncode == 3, done.stderr
    assert "[1/4] preset-lightweight-seed-0: finished before" in done.stdout
    assert "- preset-balanced-seed-0: not started" in done.stdout
    assert "preset: balanced beats lightweight by " in done.stdout
    assert "one pair of runs" in done.stdout
    assert started(place) == [1, 2, 0, 1]


def test_a_dry_run_prints_and_does_nothing(place):
    done = ablate(place, "--dry-run")
    assert done.stdout.count("launcher/train.py") == len(done.stdout.splitlines()) == 4
    done = ablate(place, "--dry-run", "--slurm")
    assert done.stdout.count("#!/bin/bash") == 2
    assert "#SBATCH --array=0-3" in done.stdout
    assert "launcher/ablate.py out/grid.yaml" in done.stdout
    assert not (place / "out").exists()


def test_a_fault_is_one_line_and_exit_code_2(place):
    write_grid(place, PRESETS | {"base": {"rnak": 4}})
    done = ablate(place)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("ablate.py: error: grid.yaml: base: unknown key 'rnak'")


@pytest.mark.slow
def test_real_runs_of_different_data_sizes_at_equal_tokens(tmp_path, llama_dir):
    data = tiny_data(tmp_path / "data")
    base = {
        "base-model": str(llama_dir), "data": str(data), "base-dtype": "float32", "max-tokens": 3000, "play-games": 3,
        "play-max-steps": 4, "held-out-share": 0.2,
    }  # fmt: skip
    spec = {"name": "sizes", "base": base, "grid": {"max-examples": [8, 24]}, "launch": {"ranks-per-node": 2}}
    (tmp_path / "launcher").symlink_to(ROOT / "launcher")
    write_grid(tmp_path, spec)
    done = ablate(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no difference shown: " in done.stdout
    for size in (8, 24):
        run = tmp_path / f"out/max-examples-{size}-seed-0"
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["data"]["train_examples"], summary["world_size"]) == (size, 2)
        assert 2800 < summary["training"]["num_tokens"] <= 3000
        assert "wandb-group: sizes" in (run / "config.yaml").read_text()
        assert list((run / "wandb").glob("offline-run-*"))
    assert "[2/2] max-examples-24-seed-0: finished before" in ablate(tmp_path).stdout
    write_grid(tmp_path, spec | {"base": base | {"learning-rate": "1e-2"}})
    done = ablate(tmp_path)
    assert done.returncode == 2
    assert "has a run with learning-rate 0.001, now 0.01" in done.stderr
