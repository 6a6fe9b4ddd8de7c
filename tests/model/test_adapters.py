from __future__ import annotations

import json
import typing
from contextlib import nullcontext
from dataclasses import replace

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
from snake_dist.model.base import ModelConfig, choose_dtype, find_base, load_base
from snake_dist.zero.engine import check_dtype_here
from tests.support.tiny_models import tiny_llama, tiny_model


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


def adapted_by(base: str, *values: str, adapter: str = "lora", dropout: float = 0.1) -> set[str]:
    """The modules that these values of --target-modules adapt, without what is before the layer's number."""
    config = AdapterConfig(adapter, rank=2, dropout=dropout, target_modules=values)  # type: ignore[arg-type]
    adapted = attach(load_base(base, "float32"), config, num_steps=10)
    names = {name.split(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
    return {name.removeprefix("base_model.model.").removeprefix("model.layers.") for name in names}


Q = {"0.self_attn.q_proj", "1.self_attn.q_proj"}
V = {"0.self_attn.v_proj", "1.self_attn.v_proj"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["q_proj"], Q),
        (["q_proj", "v_proj"], Q | V),
        (["q_proj,v_proj"], Q | V),
        (["q_proj, v_proj", "lm_head,"], Q | V | {"lm_head"}),
        (["layers.1.self_attn.q_proj"], {"1.self_attn.q_proj"}),
        (["[qv]_proj"], Q | V),
        (["q_proj|v_proj"], Q | V),
        ([r".*\.(q|v)_proj"], Q | V),
        ([r"model\.layers\.0\.self_attn\.(q_proj|v_proj)"], {"0.self_attn.q_proj", "0.self_attn.v_proj"}),
        ([r"layers\.[0-9]{1,2}\.self_attn\.q_proj,v_proj"], Q | V),
        # What a regular expression matches besides layers that can be adapted is not meant.
        ([r".*layers\.1\.self_attn.*"], {f"1.self_attn.{name}_proj" for name in "qkvo"}),
    ],
)
def test_target_modules_mean_what_users_mean(llama_dir, values, expected):
    assert adapted_by(str(llama_dir), *values) == expected


def test_all_linear_is_every_linear_layer_but_the_head_beside_which_others_can_be_named(llama_dir):
    default = adapted_by(str(llama_dir))
    assert len(default) == 14
    assert "lm_head" not in default
    assert adapted_by(str(llama_dir), "all-linear") == default
    assert adapted_by(str(llama_dir), "All-Linear", "lm_head") == default | {"lm_head"}
    assert adapted_by(str(llama_dir), "all-linear,embed_tokens") == default | {"model.embed_tokens"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["query"], "--target-modules query: not in this model: choose from all-linear, .*k_proj, lm_head, o_proj, "),
        (["q_proj", "v_porj"], "--target-modules v_porj: not in .*v_proj"),
        (["q_proj,v_porj"], "--target-modules v_porj: "),
        (["all-linear", "head"], "--target-modules head: "),
        (["self_attn"], "--target-modules self_attn: "),  # not a layer that has weights of its own
        (["q_pro"], "--target-modules q_pro: "),
        (["q_proj", "w_.*"], r"--target-modules w_\.\*: "),
        (["q_(proj"], r"--target-modules q_\(proj: no regular expression"),
    ],
)
def test_each_target_module_that_is_not_there_is_named_with_the_choices(llama_dir, values, message):
    with pytest.raises(InputError, match=message):
        adapted_by(str(llama_dir), *values)


def test_what_an_adapter_cannot_sit_on_is_refused(llama_dir, tmp_path):
    for adapter in ("adalora", "pissa"):
        with pytest.raises(InputError, match=f"model.embed_tokens is no linear layer, which --adapter {adapter} needs"):
            adapted_by(str(llama_dir), "embed_tokens", adapter=adapter)
    tied = tiny_llama(tmp_path, tie_word_embeddings=True)
    with pytest.raises(InputError, match="the output head is the embeddings too, .* --adapter pissa"):
        adapted_by(str(tied), "lm_head", adapter="pissa")


def test_what_peft_cannot_adapt_of_experts_is_refused_with_flags_that_work(tmp_path):
    base = str(tiny_model(tmp_path, "mixtral"))
    refused = [
        (
            AdapterConfig("lora"),
            r"--dropout 0.05: .*experts.gate_up_proj, .* without dropout only: add --dropout 0",
        ),
        (AdapterConfig("dora", dropout=0), "--adapter dora: .* by lora, qlora and rslora only: choose one"),
        (AdapterConfig("pissa", dropout=0, rank=4), "--adapter pissa: .* by lora, qlora and rslora only: choose one"),
    ]
    for config, message in refused:
        with pytest.raises(InputError, match=message) as error:
            attach(load_base(base, "float32"), config)
        others = str(error.value).rpartition("--target-modules ")[2]
        attach(load_base(base, "float32"), replace(config, target_modules=tuple(others.split())))
    with pytest.raises(InputError, match="--target-modules w1: this model keeps it in one matrix with w3: name both"):
        attach(load_base(base, "float32"), AdapterConfig("lora", dropout=0, target_modules=("w1",)))


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
        find_base(ModelConfig(str(tmp_path)))


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
