from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snake_dist.data import batching
from snake_dist.data.batching import (
    ExampleStream,
    accumulation_steps,
    micro_batches,
    num_examples_within,
    shuffled,
    total_over,
)
from snake_dist.errors import InputError


def stream(num_examples: int, epochs: float, batch: int, seed: int = 0) -> ExampleStream:
    return ExampleStream(np.arange(100, 100 + num_examples), seed, batch, round(num_examples * epochs))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 16))
def test_every_epoch_shows_every_example_once(num_examples, epochs, batch):
    shown = stream(num_examples, epochs, batch)
    seen = np.concatenate([shown.step_examples(step) for step in range(shown.num_steps)])
    assert len(seen) == num_examples * epochs
    for epoch in range(epochs):
        one = seen[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(one) == list(range(100, 100 + num_examples))


def test_a_step_is_a_function_of_seed_and_step_alone():
    asked_in_order = stream(10, 3, 4)
    in_order = [asked_in_order.step_examples(step).tolist() for step in range(7)]
    for step in (6, 0, 3):
        assert stream(10, 3, 4).step_examples(step).tolist() == in_order[step]
    assert stream(10, 3, 4, seed=1).step_examples(0).tolist() != in_order[0]
    assert in_order[0] != in_order[2][2:] + in_order[3][:2]  # the second epoch has an order of its own


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 5))
def test_an_order_without_a_table_is_a_permutation(num_examples, seed, epoch):
    assert sorted(shuffled(np.arange(num_examples), num_examples, seed, epoch)) == list(range(num_examples))


def test_an_order_without_a_table_is_shuffled():
    size = 40_000
    orders = [shuffled(np.arange(size), size, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        # Neighbours are as far apart as two random positions, a third of the range, and stand as often in any tenth.
        assert abs(np.diff(order)).mean() == pytest.approx(size / 3, rel=0.03)
        assert np.corrcoef(np.arange(size), order)[0, 1] == pytest.approx(0, abs=0.02)
        table, *_ = np.histogram2d(np.arange(size), order, bins=10)
        assert ((table - size / 100) ** 2 / (size / 100)).sum() < 145  # chi-squared, 81 degrees: p > 1e-5
    assert (orders[0] == orders[1]).sum() < 10
    assert (orders[0] == orders[2]).sum() < 10


def test_a_long_stream_shows_every_example_once_an_epoch(monkeypatch):
    monkeypatch.setattr(batching, "LONGEST_TABLE", 20)
    shown = stream(37, 2, 8)
    seen = np.concatenate([shown.step_examples(step) for step in range(10)])
    assert len(seen) == 74
    assert sorted(seen[:37]) == sorted(seen[37:]) == list(range(100, 137))
    assert seen[:37].tolist() != seen[37:].tolist()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 900), st.integers(1, 7))
def test_a_budget_of_tokens_is_used_up_and_not_exceeded(lengths, max_tokens, batch):
    examples, counts = np.arange(len(lengths)), np.array(lengths, dtype=np.int32)
    epoch = ExampleStream(examples, 3, batch, len(lengths))
    with mock.patch.object(batching, "_BLOCK", 4):
        num_examples = num_examples_within(max_tokens, epoch, counts, sum(lengths))
        shown = ExampleStream(examples, 3, batch, num_examples)
        seen = [i for step in range(shown.num_steps) for i in shown.step_examples(step)]
        assert total_over(shown, counts, sum(lengths)) == counts[seen].sum() <= max_tokens
        assert max_tokens < counts[seen].sum() + counts[epoch.between(num_examples, num_examples + 1)].sum()


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=48),
    st.sampled_from([(1, 4), (2, 2), (4, 1)]),
)
def test_ranks_share_a_step_without_loss_or_overlap(lengths, split):
    world_size, accumulation = split
    lengths = np.array(lengths)
    ids = np.arange(len(lengths))
    size = -(-len(ids) // 4)
    dealt = [
        micro_batches(ids, lengths, micro_batch_size=size, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    flat = [example for rank in dealt for micro in rank for example in micro.tolist()]
    assert sorted(flat) == ids.tolist()
    assert all(len(rank) == accumulation and all(len(micro) <= size for micro in rank) for rank in dealt)
    # Which examples share a micro-batch does not depend on the number of ranks.
    one = micro_batches(ids, lengths, micro_batch_size=size, rank=0, world_size=1, accumulation=4)
    interleaved = [dealt[index % world_size][index // world_size].tolist() for index in range(4)]
    assert interleaved == [micro.tolist() for micro in one]


def test_micro_batches_are_balanced_in_tokens():
    lengths = np.random.default_rng(0).integers(20, 200, size=64)
    tokens = [
        lengths[micro].sum()
        for micro in micro_batches(np.arange(64), lengths, micro_batch_size=8, rank=0, world_size=1, accumulation=8)
    ]
    assert max(tokens) < 1.1 * min(tokens)


@pytest.mark.parametrize("world_size", range(1, 9))
def test_the_default_sizes_work_on_any_number_of_ranks_up_to_eight(world_size):
    accumulation = accumulation_steps(8, 4, world_size)
    ids, lengths = np.arange(8), np.full(8, 50)
    dealt = [
        micro
        for rank in range(world_size)
        for micro in micro_batches(
            ids, lengths, micro_batch_size=4, rank=rank, world_size=world_size, accumulation=accumulation
        )
    ]
    assert sorted(np.concatenate(dealt)) == list(range(8))
    assert 1 <= min(map(len, dealt)) <= max(map(len, dealt)) <= min(4, 1 + min(map(len, dealt)))


def test_every_rank_has_an_example():
    assert accumulation_steps(32, 2, 4) == accumulation_steps(30, 2, 4) == 4
    with pytest.raises(InputError, match="--global-batch-size 8: at least the number of ranks, 9"):
        accumulation_steps(8, 4, 9)
