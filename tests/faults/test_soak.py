"""One run killed 30 times, at any moment: it ends like a run that was never touched."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from snake_dist.checkpoint.checkpoints import committed
from tests.faults.checks import adapter_hash, checkpoint_steps, status_of
from tests.faults.ranks import Ranks, flags_of, launch
from tests.runs import logged

NUM_KILLS, NUM_STEPS = 30, 60


def slow_steps(seconds: float) -> None:
    """Steps long enough to be killed in."""
    from snake_dist.training import loop

    real = loop.training_step

    def training_step(*positional: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return real(*positional, **named)

    loop.training_step = training_step


def newest_step(run: Path) -> int:
    found = committed(run)
    return int(found[0].name.removeprefix("step-")) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_killed_30_times_equals_one_that_was_not(tmp_path, llama_dir, data, stage):
    options = {"ds": f"ds_configs/zero{stage}.json", "max_steps": NUM_STEPS, "save_every": 2, "eval_every": 7}
    oracle = tmp_path / "oracle"
    started = time.monotonic()
    with Ranks(flags_of(llama_dir, data, oracle, **options), 2, tmp_path / "logs-oracle") as launched:
        while not (oracle / "metrics.jsonl").exists() and time.monotonic() < started + 120:
            time.sleep(0.05)
        startup_s = time.monotonic() - started
        assert launched.wait() == [0, 0], launched.printed()

    moments = random.Random(stage)
    run = tmp_path / "run"
    flags = flags_of(llama_dir, data, run, **options)
    killed_at: list[int] = []
    while len(killed_at) < NUM_KILLS:
        with Ranks(flags, 2, tmp_path / "logs", [(rank, slow_steps, (0.1,)) for rank in (0, 1)]) as launched:
            launched.wait(timeout_s=moments.uniform(0, 2 * startup_s))
            codes = [process.exitcode for process in launched.processes]
            assert codes == [None, None], f"it ended by itself: {codes}, {launched.printed()}"
            launched.processes[moments.choice([0, 1])].kill()
            time.sleep(moments.uniform(0, 0.2))  # then the launcher ends the other
        killed_at.append(newest_step(run))
    assert killed_at == sorted(killed_at), "a committed step was lost"
    done = launch(flags, 2, tmp_path / "logs-last")
    assert done.codes == [0, 0], done.printed()
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert logged(run, metric) == logged(oracle, metric), metric
    assert adapter_hash(run) == adapter_hash(oracle)
    assert checkpoint_steps(run)[-1] == NUM_STEPS
    assert status_of(run)["state"] == "finished"
    print(f"ZeRO {stage}: {NUM_KILLS} kills, newest checkpoint at each: {' '.join(map(str, killed_at))}")
