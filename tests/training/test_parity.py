"""Every adapter under every ZeRO stage on two ranks: the losses, gradients and adapter of one rank without ZeRO."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.faults import replace
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, train_each, uneven_data
from tests.support.tiny_models import tiny_llama

ADAPTERS = ["lora", "qlora", "adalora", "dora", "rslora", "pissa"]
OFFLOAD = {"device": "cpu"}
ZERO = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    # ZeRO-3 keeps small parameters whole, which hides faults: take every one apart.
    "zero3": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "offload": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "offload_optimizer": OFFLOAD,
        "offload_param": OFFLOAD,
    },
    "zero2_offload": {"stage": 2, "offload_optimizer": OFFLOAD},
}
# Examples per micro-batch; two ranks accumulate 1, 2 and 4 of them to a batch of 8.
SPLITS = {"1x4": 4, "2x2": 2, "accumulation 4": 1}
# fp32 sums in another order, four steps of Adam. Measured: losses below 4e-6, tensors below 3e-5.
LOSS_TOLERANCE = 2e-5
TENSOR_TOLERANCE = 2e-4

EVERY_CELL = [(stage, split) for stage in ZERO for split in SPLITS]
DIAGONAL = [(stage, list(SPLITS)[i % len(SPLITS)]) for i, stage in enumerate(ZERO) if stage != "zero2_offload"]


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    llama = tiny_llama(folder / "llama", hidden_size=64, intermediate_size=72, initializer_range=0.2)
    data, held_out = uneven_data(folder / "data.jsonl"), uneven_data(folder / "held_out.jsonl", 10)

    def make(name: str, zero: dict, ds_keys: dict | None = None, **flags):
        ds = folder / f"{name}.json"
        ds.write_text(json.dumps({"zero_optimization": zero} | (ds_keys or {})))
        defaults = {"rank": 3, "max_steps": 4, "eval_every": 2, "eval_data": held_out}
        return tiny_config(llama, data, folder / name, ds=ds, **defaults | flags)

    return make


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_two_ranks_equal_one(make_config, adapter):
    check_cells(make_config, adapter, DIAGONAL)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_two_ranks_equal_one_in_every_cell(make_config, adapter):
    check_cells(make_config, adapter, EVERY_CELL)


def check_cells(make_config, adapter, cells):
    label = f"{adapter}-{len(cells)}"
    alone = make_config(f"{label}-alone", {"stage": 0}, adapter=adapter, micro_batch_size=8)
    [(expected, expected_tensors)] = run_on_ranks(train_each, 1, [alone])[0]
    configs = [
        make_config(f"{label}-{stage}-{split}", ZERO[stage], adapter=adapter, micro_batch_size=SPLITS[split])
        for stage, split in cells
    ]
    for cell, (found, tensors) in zip(cells, run_on_ranks(train_each, 2, configs)[0], strict=True):
        assert len(found["train/loss"]) == 4
        for metric in ("train/loss", "train/grad_norm", "eval/loss"):
            assert found[metric] == pytest.approx(expected[metric], rel=1e-4, abs=LOSS_TOLERANCE), (cell, metric)
        assert tensors.keys() == expected_tensors.keys()
        for name, tensor in expected_tensors.items():
            assert np.abs(tensors[name] - tensor).max(initial=0) < TENSOR_TOLERANCE, (cell, name)


def train_padded(configs):
    """On a rank: the same, with one example a row and padding, as for models that cannot pack."""
    from snake_dist.model import packing_proof

    replace(packing_proof, "use_packed_attention", lambda *_: False)
    return train_each(configs)


def test_packed_rows_equal_padded_ones(make_config):
    [(packed, packed_tensors)] = run_on_ranks(train_each, 1, [make_config("packed", {"stage": 0})])[0]
    [(padded, padded_tensors)] = run_on_ranks(train_padded, 1, [make_config("padded", {"stage": 0})])[0]
    assert min(padded["train/padding_share"]) > 0.1
    assert max(packed["train/padding_share"]) == 0
    assert packed["train/loss"] == pytest.approx(padded["train/loss"], abs=LOSS_TOLERANCE)
    for name, tensor in padded_tensors.items():
        assert np.abs(packed_tensors[name] - tensor).max() < TENSOR_TOLERANCE, name


def test_lora_plus_trains_b_faster(make_config):
    """One step of Adam moves every weight with a gradient by its rate: B, which starts at 0, by 4 times A's."""
    cells = [("zero0", 4), ("zero2", 4), ("zero3", 4), ("zero2", 1)]
    configs = [
        make_config(f"plus{i}", ZERO[stage], lora_plus_ratio=ratio, max_steps=1, warmup_share=0)
        for i, (stage, ratio) in enumerate(cells)
    ]
    for (stage, ratio), (_, tensors) in zip(cells, run_on_ranks(train_each, 2, configs)[0], strict=True):
        largest = max(np.abs(tensor).max() for name, tensor in tensors.items() if "lora_B" in name)
        assert largest == pytest.approx(1e-2 * ratio, rel=1e-3), (stage, ratio)


def train_with_an_overflow(configs):
    """On a rank: fp16, the second rank's gradient of one matrix infinite in the second step."""
    from snake_dist.run import restore

    real = restore.start_engine

    def start_and_spoil(model, *args, **flags):
        engine = real(model, *args, **flags)
        spoilt = next(p for name, p in model.named_parameters() if "lora_B" in name)
        spoilt.register_hook(
            lambda gradient: gradient * float("inf") if engine.global_steps == 1 and engine.global_rank == 1 else None
        )
        return engine

    replace(restore, "start_engine", start_and_spoil)
    return train_each(configs)


@pytest.mark.usefixtures("float16_hardware")
def test_fp16_skips_the_same_step_on_every_rank(make_config):
    # A scale that 200 tokens of gradients fit under, and no second chance before it is halved.
    fp16 = {"enabled": True, "initial_scale_power": 8, "hysteresis": 1}
    configs = [
        make_config(f"fp16-{stage}", ZERO[stage], {"fp16": fp16}, base_dtype="float16")
        for stage in ("zero0", "zero1", "zero2", "zero3")
    ]
    ranks = run_on_ranks(train_with_an_overflow, 2, configs)
    for stage, first, second in zip(("zero0", "zero1", "zero2", "zero3"), *ranks, strict=True):
        metrics, tensors = first
        assert metrics["train/skipped_steps"] == [0, 1, 1, 1], stage
        assert second[0]["train/skipped_steps"] == [0, 1, 1, 1], stage
        # A skipped step has no gradient norm; the schedule follows the step number.
        assert len(metrics["train/grad_norm"]) == 3, stage
        assert max(metrics["train/grad_norm"]) < 20, stage
        assert metrics["train/grad_norm"] == pytest.approx(ranks[0][2][0]["train/grad_norm"], rel=2e-2), stage
        assert metrics["train/learning_rate"] == ranks[0][0][0]["train/learning_rate"], stage
        for name, tensor in tensors.items():
            assert np.isfinite(tensor).all(), (stage, name)
            assert np.array_equal(tensor, second[1][name]), (stage, name)
        assert metrics["train/loss"] == pytest.approx(ranks[0][0][0]["train/loss"], rel=5e-3), stage
