"""Runs killed 30 times in all, at any moment: they end like one that was never touched."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from snake_dist.checkpoint.checkpoints import committed
from tests.support.faults import slow_steps
from tests.support.processes import ROOT
from tests.support.run_checks import adapter_hash, checkpoint_steps, status_of
from tests.support.runs import logged
from tests.support.train_ranks import Ranks, flags_of

NUM_KILLS, NUM_STEPS = 30, 120


def newest_step(run: Path) -> int:
    found = committed(run)
    return int(found[0].name.removeprefix("step-")) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_30_kills_change_nothing(tmp_path, llama_dir, data, stage):
    options = {"ds": ROOT / f"ds_configs/zero{stage}.json", "max_steps": NUM_STEPS, "save_every": 2, "eval_every": 7}
    oracle = tmp_path / "oracle"
    started = time.monotonic()
    with Ranks(flags_of(llama_dir, data, oracle, **options), 2, tmp_path / "logs-oracle") as launched:
        while not (oracle / "metrics.jsonl").exists() and time.monotonic() < started + 300:
            time.sleep(0.05)
        startup_s = time.monotonic() - started
        assert launched.wait(timeout_s=600) == [0, 0], launched.printed()

    moments = random.Random(stage)
    kills: list[list[int]] = []
    while sum(map(len, kills)) < NUM_KILLS:  # a run that gets to its end is checked, and another one is begun
        run = tmp_path / f"run{len(kills)}"
        kills.append(kill_until_it_ends(run, flags_of(llama_dir, data, run, **options), moments, 1.7 * startup_s))
        check_ended_as(run, oracle)
    print(
        f"ZeRO {stage}: {sum(map(len, kills))} kills in {len(kills)} runs, newest checkpoint at each: {kills}",
        flush=True,
    )


def kill_until_it_ends(run: Path, flags: list[str], moments: random.Random, longest_s: float) -> list[int]:
    """Start the run again and again, and kill it; returns the newest checkpoint at each kill."""
    killed_at: list[int] = []
    while True:
        enough = len(killed_at) == NUM_KILLS
        slowly = [] if enough else [(rank, slow_steps, (0.1,)) for rank in (0, 1)]
        with Ranks(flags, 2, run.with_name(f"{run.name}-logs"), slowly) as launched:
            codes = launched.wait(timeout_s=600 if enough else moments.uniform(0, longest_s))
            if codes != [None, None]:
                codes = launched.wait(timeout_s=60)
                assert codes == [0, 0], launched.printed()
                return killed_at
            launched.processes[moments.choice([0, 1])].kill()
            time.sleep(moments.uniform(0, 0.2))  # then the launcher ends the other
        killed_at.append(newest_step(run))
        assert killed_at == sorted(killed_at), "a committed step was lost"


def check_ended_as(run: Path, oracle: Path) -> None:
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert logged(run, metric) == logged(oracle, metric), metric
    assert adapter_hash(run) == adapter_hash(oracle)
    assert checkpoint_steps(run)[-1] == NUM_STEPS
    assert status_of(run)["state"] == "finished"
