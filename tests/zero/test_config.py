from __future__ import annotations

import json

import pytest

from snake_dist.errors import InputError
from snake_dist.zero import keys as ds_keys
from snake_dist.zero.config import FILES, build_ds_config, check_pair, fill_ds_config, read_ds_config
from tests.support.processes import ROOT
from tests.support.runs import RUN_VALUES

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


@pytest.mark.parametrize("name", FILES)
def test_files_are_what_the_builder_makes(name):
    assert read_ds_config(str(ROOT / f"ds_configs/{name}.json")) == build_ds_config(**FILES[name])


def test_nothing_in_the_folder_goes_untested():
    assert {path.name for path in (ROOT / "ds_configs").iterdir()} == {f"{name}.json" for name in FILES}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"stage": 4}, "stage 4: choose from 0, 1, 2, 3"),
        ({"stage": 2, "offload": "all"}, "offload 'all' contradicts stage 2"),
        ({"stage": 0, "offload": "optimizer"}, "offload 'optimizer' contradicts stage 0"),
        ({"stage": 2, "offload": "disk"}, "offload 'disk': choose from none, optimizer, all"),
    ],
)
def test_builder_refuses_what_cannot_be(choices, message):
    with pytest.raises(InputError, match=message):
        build_ds_config(**choices)


def test_known_keys_are_deepspeeds_own(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    tables = {
        DeepSpeedZeroConfig: ds_keys.ZERO_KEYS,
        DeepSpeedZeroOffloadParamConfig: ds_keys.OFFLOAD_PARAM_KEYS,
        DeepSpeedZeroOffloadOptimizerConfig: ds_keys.OFFLOAD_OPTIMIZER_KEYS,
        DeepSpeedFP16Config: ds_keys.FP16_KEYS,
        DeepSpeedBF16Config: ds_keys.BF16_KEYS,
    }
    for model, keys in tables.items():
        assert {field.alias or name for name, field in model.model_fields.items()} == set(keys), model.__name__


@pytest.mark.parametrize("given", [HF_STYLE, {}, *(build_ds_config(**choices) for choices in FILES.values())])
def test_run_config_fills_what_it_owns(given):
    before = json.dumps(given)
    filled = fill_ds_config(given, RUN_VALUES, hidden_size=64)
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
        ({"zero_optimization": {"contiguous_gradients": [["auto"]]}}, "zero_optimization.contiguous_gradients"),
    ],
)
def test_contradictions_name_both_values(given, message):
    with pytest.raises(InputError, match=message):
        fill_ds_config(given, RUN_VALUES, hidden_size=64)


def test_shards_within_a_node_divide_its_ranks():
    hpz = build_ds_config(3, nodes=2)
    assert (
        fill_ds_config(hpz, RUN_VALUES, hidden_size=64, local_size=8)["zero_optimization"]["zero_hpz_partition_size"]
        == 8
    )
    hpz["zero_optimization"]["zero_hpz_partition_size"] = 3
    with pytest.raises(InputError, match="zero_hpz_partition_size 3 does not divide the 8 ranks"):
        fill_ds_config(hpz, RUN_VALUES, hidden_size=64, local_size=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "ds.json:1: not JSON"),
        ("[]", "object"),
        ('{"bf16": true}', "'bf16' is True: an object"),
        ('{"zero_optimization": {"stage": 4}}', "stage 4: choose from 0, 1, 2, 3"),
        ('{"zero_optimization": {"stage": "2"}}', "stage '2'"),
        ('{"gradient_cliping": 1}', "unknown key 'gradient_cliping': did you mean 'gradient_clipping'"),
        (
            '{"zero_optimization": {"stage": 3, "stage3_param_persistance_threshold": 0}}',
            "zero_optimization.stage3_param_persistance_threshold: did you mean 'stage3_param_persistence_threshold'",
        ),
        ('{"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}}', "offload_param.devise.*'device'"),
        ('{"fp16": {"loss_scale_windw": 9}}', "fp16.loss_scale_windw.*'loss_scale_window'"),
        ('{"optimizer": {"type": "OneBitAdam"}}', "optimizer.type 'OneBitAdam': choose from Adam, AdamW"),
        ('{"gradient_allreduce_op": "sum"}', "'gradient_allreduce_op' is not supported"),
        (
            '{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}',
            "offload_param contradicts zero_optimization.stage 2: it needs stage 3",
        ),
        (
            '{"zero_optimization": {"stage": 1, "zero_hpz_partition_size": 8}}',
            "partition_size contradicts zero_optimization.stage 1",
        ),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_ds_config(str(path))
    with pytest.raises(InputError, match="No such file"):
        read_ds_config(str(tmp_path / "missing.json"))


def test_adapters_that_a_config_cannot_train_are_refused():
    rounded = {"zero_optimization": {"stage": 3, "zero_quantized_nontrainable_weights": True}}
    check_pair(rounded, "lora")
    with pytest.raises(InputError, match="qlora contradicts --ds, whose .*nontrainable_weights is True"):
        check_pair(rounded, "qlora")
    fused = {"optimizer": {"params": {"torch_adam": False}}}
    check_pair(fused, "lora")
    with pytest.raises(InputError, match="adalora contradicts --ds, whose optimizer.params.torch_adam is False"):
        check_pair(fused, "adalora")


def test_switched_off_offload_contradicts_nothing(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 2, "offload_param": {"device": "none"}}}')
    assert read_ds_config(str(path))
