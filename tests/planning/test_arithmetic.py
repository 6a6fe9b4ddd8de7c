"""Planning's arithmetic: invariants, published numbers, the rule for stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snake_dist.planning.choice import GIB, largest_micro_batch, recommend
from snake_dist.planning.communication import Collective, Links, seconds, step_collectives
from snake_dist.planning.memory import rank_memory
from snake_dist.planning.shapes import Linear, MicroBatch, ModelSizes, Setup, base_bytes
from snake_dist.planning.step_time import Speed, micro_batch_flops, step_time

H, INNER, KV = 4096, 14336, 1024
LLAMA_8B = ModelSizes(
    hidden_size=H,
    num_layers=32,
    num_heads=32,
    num_key_value_heads=8,
    head_size=128,
    intermediate_size=INNER,
    mlp_tensors=3,
    norm="rms",
    vocabulary=128256,
    linears=(
        Linear(H, H, adapted=True),
        Linear(H, KV, adapted=True, shares_input=True),
        Linear(H, KV, adapted=True, shares_input=True),
        Linear(H, H, adapted=True),
        Linear(H, INNER, adapted=True),
        Linear(H, INNER, adapted=True, shares_input=True),
        Linear(INNER, H, adapted=True),
    ),
    num_base=8_030_261_248,
    num_trainable=41_943_040,
    rank=16,
)
BATCH = MicroBatch(4, 1024, 0.4)
NODE = Links(ranks_per_node=8, inside_bytes_per_s=300e9, between_bytes_per_s=25e9, latency_s=2e-5)


def total(setup: Setup, batch: MicroBatch = BATCH) -> float:
    return rank_memory(LLAMA_8B, setup, batch).total


def test_llama_8b_by_the_published_numbers():
    """16 GB in bf16; about 5.3 GiB in NF4 (4.127 bits a quantized weight, QLoRA section 3); 0.5 GB of optimizer."""
    assert base_bytes(LLAMA_8B, Setup(0, 1)) == pytest.approx(16.06e9, rel=1e-3)
    quantized = LLAMA_8B.num_layer_weights
    nf4 = base_bytes(LLAMA_8B, Setup(0, 1, nf4=True)) - 2 * (LLAMA_8B.num_base - quantized)
    assert 8 * nf4 / quantized == pytest.approx(4.127, abs=0.001)
    single = base_bytes(LLAMA_8B, Setup(0, 1, nf4=True, double_quant=False)) - 2 * (LLAMA_8B.num_base - quantized)
    assert 8 * single / quantized == pytest.approx(4.5, abs=0.001)
    device = rank_memory(LLAMA_8B, Setup(0, 8), BATCH).device
    assert device["masters"] + device["moments"] == pytest.approx(0.503e9, rel=0.01)


def test_gathers_outweigh_gradients_by_two_orders():
    """ZeRO-3 gathers the base about twice a micro-batch; ZeRO-2 reduces an adapter's gradient."""
    three = step_collectives(LLAMA_8B, replace(Setup(3, 8), max_live=0))
    gathered = sum(c.message_bytes for c in three if c.what.startswith("base"))
    [gradients] = step_collectives(LLAMA_8B, Setup(0, 8))
    assert gathered == pytest.approx(2 * 16.06e9, rel=0.05)
    assert gathered / gradients.message_bytes > 190


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_more_of_anything_needs_more_memory(stage):
    setup = Setup(stage, 8)
    assert total(setup, replace(BATCH, num_examples=5)) > total(setup)
    assert total(setup, replace(BATCH, tokens_per_example=1025)) > total(setup)
    assert total(setup, replace(BATCH, trained_share=0.5)) > total(setup)
    assert total(replace(setup, dropout=0.1)) > total(setup)
    assert total(replace(setup, dtype="float32")) > total(setup)
    assert total(replace(setup, gradient_checkpointing=True)) < total(setup)
    assert total(replace(setup, nf4=True)) < total(setup)
    assert total(replace(setup, offload_optimizer=True)) < total(setup)
    if stage:
        assert total(replace(setup, num_ranks=16)) < total(setup)


def test_offload_moves_bytes_to_the_host_and_loses_none():
    plain = rank_memory(LLAMA_8B, Setup(3, 8), BATCH)
    moved = rank_memory(LLAMA_8B, Setup(3, 8, offload_optimizer=True, offload_parameters=True), BATCH)
    for part in ("base", "adapter", "masters", "moments"):
        assert moved.host[part] == plain.device[part]
        assert moved.device[part] == 0


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_largest_micro_batch_is_the_largest(stage):
    setup = Setup(stage, 8)
    most = largest_micro_batch(LLAMA_8B, setup, BATCH, 60 * GIB)
    assert most > 0
    assert total(setup, replace(BATCH, num_examples=most)) <= 60 * GIB
    assert total(setup, replace(BATCH, num_examples=most + 1)) > 60 * GIB
    assert largest_micro_batch(LLAMA_8B, setup, BATCH, GIB) == 0


@pytest.mark.parametrize(
    ("memory_gib", "nf4", "stage", "checkpointing", "fits"),
    [
        (70, False, 2, False, True),  # the base fits, with activations
        (24, False, 2, True, True),  # it fits once activations are recomputed
        (14, False, 3, True, True),  # it does not: shards
        (14, True, 2, True, True),  # in 4 bits it does again
        (3, False, 3, True, False),
    ],
)
def test_the_base_is_sharded_only_where_it_does_not_fit(memory_gib, nf4, stage, checkpointing, fits):
    choice = recommend(LLAMA_8B, Setup(0, 8, nf4=nf4), BATCH, memory_gib * GIB)
    assert (choice.setup.stage, choice.setup.gradient_checkpointing, choice.fits) == (stage, checkpointing, fits)
    assert "base" in choice.reason or not fits


def test_one_rank_shares_nothing():
    assert recommend(LLAMA_8B, Setup(0, 1), BATCH, 70 * GIB).setup.stage == 0
    assert step_collectives(LLAMA_8B, Setup(3, 1)) == []


def test_the_slower_of_both_links_decides():
    gather = Collective("base", "all-gather", 8e9, 0)
    assert seconds(gather, 1, NODE) == 0
    assert seconds(gather, 8, NODE) == pytest.approx(8e9 * 7 / 8 / 300e9)
    assert seconds(gather, 64, NODE) == pytest.approx(8e9 * 7 / 8 / 25e9)  # 8 nodes
    reduce = replace(gather, kind="all-reduce")
    assert seconds(reduce, 64, NODE) == 2 * seconds(gather, 64, NODE)


def test_hpz_keeps_the_backward_gather_inside_the_node():
    far, near = Setup(3, 64, max_live=0), Setup(3, 64, max_live=0, hpz_ranks=8)
    speed = Speed(312e12, 0.35, NODE)
    ratio = step_time(LLAMA_8B, near, BATCH, 1, speed).gathers / step_time(LLAMA_8B, far, BATCH, 1, speed).gathers
    assert 0.5 < ratio < 0.6  # 300 GB/s for the second half instead of 25
    more = rank_memory(LLAMA_8B, near, BATCH).device["base"] - rank_memory(LLAMA_8B, far, BATCH).device["base"]
    assert more == pytest.approx(16.06e9 / 8, rel=1e-3)


def test_step_time_terms():
    speed = Speed(312e12, 0.35, NODE)
    one, three = (step_time(LLAMA_8B, Setup(stage, 64), BATCH, 2, speed, save_every=100) for stage in (2, 3))
    assert one.compute == three.compute > 0
    assert one.gathers == 0 < three.gathers
    assert three.total <= three.not_overlapped
    # Four operations a frozen weight and token, not six: its own gradient is never computed.
    flops = micro_batch_flops(LLAMA_8B, Setup(0, 1), BATCH) / BATCH.tokens
    assert 4 < flops / LLAMA_8B.num_layer_weights < 4.6
    recomputed = micro_batch_flops(LLAMA_8B, Setup(0, 1, gradient_checkpointing=True), BATCH) / BATCH.tokens
    assert recomputed / flops == pytest.approx(1.48, abs=0.03)
