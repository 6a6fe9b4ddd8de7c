"""fp16: a resumed run continues with the loss scale of the interrupted one, and with its counters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from snake_dist.checkpoint.checkpoints import checkpoints_dir, verify
from snake_dist.run.finetune import finetune
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, logged, tiny_config, tiny_data
from tests.support.tiny_models import tiny_llama

NUM_STEPS, STOPPED_AT = 12, 5
# So high a scale that the first steps overflow; it doubles after two good ones, and overflows again.
FP16 = {"enabled": True, "initial_scale_power": 24, "loss_scale_window": 2, "hysteresis": 2}


def train_twice(whole: Any, resumed: Any) -> None:
    """On a rank: a run, and the same from its checkpoint `STOPPED_AT` on, in another directory."""
    import torch

    finetune(whole)
    if torch.distributed.get_rank() == 0:
        source, target = Path(str(whole.output.output_dir)), Path(str(resumed.output.output_dir))
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".run.*"))
        status = json.loads((target / "status.json").read_text())
        (target / "status.json").write_text(json.dumps(status | {"state": "training"}))
        for path in checkpoints_dir(target).glob("step-*"):
            if verify(path).step > STOPPED_AT:
                shutil.rmtree(path)
    torch.distributed.barrier()
    finetune(resumed)


@pytest.mark.slow
@pytest.mark.usefixtures("float16_hardware")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resumed_fp16_run_scales_as_before(tmp_path, stage):
    llama = tiny_llama(tmp_path / "llama", initializer_range=0.2)
    data = tiny_data(tmp_path / "data")
    ds = tmp_path / "ds.json"
    ds.write_text(json.dumps({"zero_optimization": {"stage": stage}, "fp16": FP16}))
    options = {"ds": ds, "base_dtype": "float16", "max_steps": NUM_STEPS, "save_every": 1, "keep_checkpoints": 99}
    configs = [
        tiny_config(llama, data, tmp_path / name, resume="auto", learning_rate=1e-3, **options)
        for name in ("whole", "resumed")
    ]
    run_on_ranks(train_twice, 2, *configs)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert not (whole / "not_finite.json").exists(), "a loss scale that is too high is no fault"
    scales = [scaler_at(whole, step) for step in range(1, NUM_STEPS + 1)]
    after = [scale["cur_scale"] for scale in scales[STOPPED_AT - 1 :]]
    assert min(after) < after[0], "the scale falls after the checkpoint"
    assert after[-1] > min(after), "and rises again"
    assert [scaler_at(resumed, step) for step in range(1, NUM_STEPS + 1)] == scales
    for metric in ("train/loss", "train/grad_norm", "train/skipped", "eval/loss"):
        assert logged(resumed, metric) == logged(whole, metric), metric
    expected = adapter_tensors(whole)
    assert all(bool((tensor == expected[name]).all()) for name, tensor in adapter_tensors(resumed).items())


def scaler_at(run: Path, step: int) -> dict[str, float]:
    return verify(checkpoints_dir(run) / f"step-{step:08d}").numbers["optimizer"]["loss_scaler"]
