from __future__ import annotations

import json
import typing
from contextlib import nullcontext

import pytest

from snake_dist.errors import InputError
from snake_dist.model.adapters import (
    ADAPTERS,
    PRESETS,
    AdapterConfig,
    AdapterSize,
    adapter_size,
    attach,
    check_adapter_config,
    rank_schedule,
)
from snake_dist.model.base import ModelConfig, choose_dtype, find_base, load_base, model_shape
from snake_dist.zero.engine import check_dtype_here


def test_presets_and_overrides():
    assert adapter_size(AdapterConfig(preset="lightweight")) == AdapterSize(8, 16, 0.1)
    assert adapter_size(AdapterConfig()) == AdapterSize(16, 32, 0.05)
    assert adapter_size(AdapterConfig(preset="high_capacity", alpha=5, dropout=0)) == AdapterSize(32, 5, 0)


def test_help_lists_what_the_tables_hold():
    hints = typing.get_type_hints(AdapterConfig)
    assert typing.get_args(hints["adapter"]) == tuple(ADAPTERS)
    assert typing.get_args(hints["preset"]) == tuple(PRESETS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig(adapter="lroa"), "'lroa'.*lora, qlora, adalora, dora, rslora, pissa"),  # type: ignore[arg-type]
        (AdapterConfig(preset="big"), "'big'.*lightweight, balanced, high_capacity"),  # type: ignore[arg-type]
        (AdapterConfig(rank=0), "--rank 0"),
        (AdapterConfig(alpha=float("nan")), "--alpha nan"),
        (AdapterConfig(dropout=1.0), "--dropout 1"),
        (AdapterConfig(target_rank=4), "--target-rank 4 contradicts --adapter lora"),
        (AdapterConfig(adapter="adalora", rank=4, target_rank=4), "--target-rank 4: at least 1 and below --rank 4"),
        (AdapterConfig(adapter="adalora", rank=1), "--target-rank 1: .* below --rank 1"),
        (AdapterConfig(lora_plus_ratio=0), "--lora-plus-ratio 0"),
    ],
)
def test_impossible_values_are_named(config, message):
    with pytest.raises(InputError, match=message):
        check_adapter_config(config)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_starts_as_the_base(llama_dir, adapter):
    import torch

    tokens = torch.arange(10)[None]
    base = load_base(str(llama_dir), "float32")
    with torch.inference_mode():
        expected = base(tokens).logits
        adapted = attach(base, AdapterConfig(adapter=adapter), num_steps=10).eval()
        assert (adapted(tokens).logits - expected).abs().max() < 1e-5 * expected.abs().max()


def test_rank_schedule_leaves_room_for_a_decision_in_the_shortest_run():
    assert rank_schedule(100) == {"total_step": 100, "tinit": 10, "tfinal": 30, "deltaT": 1}
    assert rank_schedule(10_000)["deltaT"] == 60
    for num_steps in range(2, 50):
        schedule = rank_schedule(num_steps)
        assert schedule["tinit"] < num_steps - schedule["tfinal"]
    with pytest.raises(InputError, match="at least 2 steps .* this run has 1"):
        rank_schedule(1)


def test_unknown_target_modules_name_the_layers_there_are(llama_dir):
    with pytest.raises(InputError, match="--target-modules query: .*k_proj, lm_head, o_proj, q_proj"):
        attach(load_base(str(llama_dir), "float32"), AdapterConfig(target_modules=("query",)))


def test_target_modules_can_be_chosen(llama_dir):
    adapted = attach(load_base(str(llama_dir), "float32"), AdapterConfig(target_modules=("q_proj",)))
    assert {name.split(".")[-4] for name, p in adapted.named_parameters() if p.requires_grad} == {"q_proj"}


def test_base_that_cannot_be_found_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--base-model 'no/such-model' cannot be found.*smollm2-135m"):
        find_base(ModelConfig("no/such-model"))
    with pytest.raises(InputError, match="cannot be found"):
        find_base(ModelConfig(str(tmp_path)))


def test_base_that_does_not_generate_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(InputError, match="'t5', which is no causal language model"):
        find_base(ModelConfig(str(tmp_path)))


def test_base_that_is_quantized_already_is_refused(tmp_path):
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"is quantized already \(gptq\)"):
        model_shape(str(tmp_path))


@pytest.mark.parametrize("modules", [(), ("q_proj", "k_proj")])
def test_pissa_has_no_more_components_than_the_smallest_matrix(llama_dir, modules):
    with pytest.raises(InputError, match=r"--rank 17: .* \(16 x 32\) has 16"):
        attach(load_base(str(llama_dir), "float32"), AdapterConfig("pissa", rank=17, target_modules=modules))
    attach(load_base(str(llama_dir), "float32"), AdapterConfig("pissa", rank=16, target_modules=modules))


def test_dtype_follows_flag_and_file():
    assert choose_dtype("float32", {"bf16": {"enabled": "auto"}}) == "float32"
    assert choose_dtype("auto", {"fp16": {"enabled": True}}) == "float16"
    for flag, block in (("float32", "bf16"), ("bfloat16", "fp16")):
        with pytest.raises(InputError, match=f"--base-dtype {flag} contradicts"):
            choose_dtype(flag, {block: {"enabled": True}})
    with pytest.raises(InputError, match="disables bf16"):
        choose_dtype("bfloat16", {"bf16": {"enabled": False}})


@pytest.mark.parametrize("is_supported", [None, False, True])
def test_a_machine_that_does_not_compute_in_float16_says_so(monkeypatch, is_supported):
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: is_supported)
    check_dtype_here("bfloat16")
    with nullcontext() if is_supported else pytest.raises(InputError, match="float16 .* not on this machine"):
        check_dtype_here("float16")
