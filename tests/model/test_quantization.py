"""The 4-bit base: smaller, close to the full one, and the same after an evaluation, whatever ZeRO does with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, train_each, uneven_data
from tests.support.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), hidden_size=128, intermediate_size=256, initializer_range=0.1)


def losses_around_an_evaluation(directory: str, guarded: bool):
    """On a rank, ZeRO-3: the loss in training mode before and after a forward pass in eval mode."""
    import torch
    from peft import LoraConfig, get_peft_model

    from snake_dist.cluster.world import start_process_group, world_from_environment
    from snake_dist.model.base import load_base
    from snake_dist.zero.engine import start_engine

    start_process_group(world_from_environment())
    model = load_base(directory, "bfloat16", quantization="nf4")
    if not guarded:
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = True
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"), autocast_adapter_dtype=False)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 0.0}},
    }
    engine = start_engine(model, config)
    tokens = torch.arange(40)[None]

    def loss() -> float:
        with torch.no_grad():
            return float(engine(tokens, labels=tokens, use_cache=False).loss)

    engine.train()
    before = loss()
    engine.eval()
    loss()
    engine.train()
    return before, loss()


def test_an_evaluation_leaves_the_sharded_base_as_it_was(llama):
    (before, after), _ = run_on_ranks(losses_around_an_evaluation, 2, str(llama), True)
    assert after == before


def test_without_the_guard_it_would_not(llama):
    """Or else the guard can go."""
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU does not make bitsandbytes repack 4-bit weights")
    (before, after), _ = run_on_ranks(losses_around_an_evaluation, 2, str(llama), False)
    assert abs(after - before) > 0.1


def test_the_4_bit_base_is_small_and_learns_as_the_full_one(tmp_path, llama):
    data, held_out = uneven_data(tmp_path / "data.jsonl"), uneven_data(tmp_path / "held_out.jsonl", 10)
    configs = {}
    for stage in (2, 3):
        ds = tmp_path / f"zero{stage}.json"
        ds.write_text(json.dumps({"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}}))
        for adapter in ("lora", "qlora"):
            flags = {"base_dtype": "bfloat16", "eval_data": held_out, "max_steps": 6, "adapter": adapter}
            configs[adapter, stage] = tiny_config(llama, data, tmp_path / f"{adapter}{stage}", ds=ds, **flags)
    outcomes = run_on_ranks(train_each, 2, list(configs.values()))[0]
    found = {cell: metrics for cell, (metrics, _) in zip(configs, outcomes, strict=True)}
    for stage in (2, 3):
        full, small = found["lora", stage], found["qlora", stage]
        # 0.04 on random weights, which 4 bits change more than trained ones.
        assert small["train/loss"] == pytest.approx(full["train/loss"], rel=0.08)
        assert small["model/base_gib/rank_0"][0] < 0.6 * full["model/base_gib/rank_0"][0]
    for adapter in ("lora", "qlora"):
        whole, shard = (found[adapter, stage]["model/base_gib/rank_1"][0] for stage in (2, 3))
        assert shard < 0.6 * whole
