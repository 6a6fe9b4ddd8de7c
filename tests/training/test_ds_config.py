from __future__ import annotations

import json
from pathlib import Path

import pytest

from snake_dist.errors import InputError
from snake_dist.training.ds_config import ZERO_STAGES, build_ds_config, fill_ds_config, read_ds_config

RUN = {
    "dtype": "bfloat16",
    "global_batch_size": 16,
    "micro_batch_size": 4,
    "accumulation": 2,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "hidden_size": 64,
}
# As in the documentation of the Hugging Face Trainer's DeepSpeed integration.
HF_STYLE = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_files_are_what_the_builder_makes(stage):
    assert read_ds_config(f"ds_configs/zero{stage}.json") == build_ds_config(stage)


def test_nothing_in_the_folder_goes_untested():
    assert {path.name for path in Path("ds_configs").iterdir()} == {f"zero{stage}.json" for stage in ZERO_STAGES}


@pytest.mark.parametrize("given", [HF_STYLE, {}, *map(build_ds_config, ZERO_STAGES)])
def test_run_config_fills_what_it_owns(given):
    before = json.dumps(given)
    filled = fill_ds_config(given, **RUN)
    assert json.dumps(given) == before
    assert '"auto"' not in json.dumps(filled)
    assert "scheduler" not in filled
    assert filled["train_batch_size"] == 16
    assert filled["train_micro_batch_size_per_gpu"] == 4
    assert filled["gradient_accumulation_steps"] == 2
    assert filled["bf16"]["enabled"]
    assert not filled["fp16"]["enabled"]
    assert filled["optimizer"]["params"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_batch_size": 32}, "train_batch_size is 32, but the run config says 16"),
        ({"train_batch_size": "16"}, "train_batch_size is '16'"),
        ({"optimizer": {"params": {"lr": 0.5}}}, r"optimizer.params.lr is 0.5, but the run config says 0.001"),
        ({"bf16": {"enabled": False}}, "bf16.enabled is False, but the run config says True"),
        ({"scheduler": {"params": {"warmup_num_steps": 9}}}, "warmup_num_steps"),
        ({"wall_clock_breakdown": "auto"}, "wall_clock_breakdown"),
    ],
)
def test_contradictions_name_both_values(given, message):
    with pytest.raises(InputError, match=message):
        fill_ds_config(given, **RUN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "ds.json:1: not JSON"),
        ("[]", "object"),
        ('{"bf16": true}', "'bf16' is to be an object"),
        ('{"zero_optimization": {"stage": 4}}', "stage 4: choose from 0, 1, 2, 3"),
        ('{"zero_optimization": {"stage": "2"}}', "stage '2'"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_ds_config(str(path))
    with pytest.raises(InputError, match="No such file"):
        read_ds_config(str(tmp_path / "missing.json"))
