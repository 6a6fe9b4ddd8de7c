"""A mixture of sources gives each exactly its weight, and is a function of seed and step alone."""

from __future__ import annotations

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snake_dist.data import batching
from snake_dist.data.batching import num_examples_within, total_over
from snake_dist.data.mixture import LONGEST_CYCLE, MixedStream, interleaved, whole_weights
from snake_dist.data.sources import resolve_paths, resolve_sources, split_weight
from snake_dist.errors import InputError

mixtures = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 7)), min_size=1, max_size=4)
"""(number of examples, weight) of each source."""


def mixed(sizes_and_weights, total, seed=0, batch=4):
    sizes, weights = zip(*sizes_and_weights, strict=True)
    examples = np.arange(100, 100 + sum(sizes))
    return MixedStream(examples, np.split(examples, np.cumsum(sizes)[:-1]), weights, seed, batch, total)


@given(mixtures, st.integers(0, 60), st.integers(0, 60), st.integers(0, 3))
def test_every_cycle_gives_each_source_its_weight_and_each_epoch_each_example(mixture, start, length, seed):
    sizes, weights = zip(*mixture, strict=True)
    source_of = np.repeat(np.arange(len(sizes)), sizes)
    cycle, total = sum(weights), 8 * sum(weights)
    ids = mixed(mixture, total, seed).between(0, total)
    for first in range(0, total, cycle):
        counts = np.bincount(source_of[ids[first : first + cycle] - 100], minlength=len(sizes))
        assert counts.tolist() == list(weights)
    for source, size in enumerate(sizes):
        own = ids[source_of[ids - 100] == source]
        for first in range(0, len(own) - size + 1, size):
            assert len({*own[first : first + size]}) == size
        assert mixed(mixture, total, seed).num_seen(source, total) == len(own)
    # Any part, asked by itself and of another object, is that part.
    part = mixed(mixture, total, seed).between(min(start, total), min(start + length, total))
    assert part.tolist() == ids[start : start + length].tolist()


def test_steps_and_seeds():
    mixture = [(9, 3), (5, 1)]
    in_order = mixed(mixture, 26)
    steps = [in_order.step_examples(step).tolist() for step in range(in_order.num_steps)]
    assert [len(step) for step in steps] == [4, 4, 4, 4, 4, 4, 2]
    assert all(sum(i >= 109 for i in step) == 1 for step in steps[:-1])
    for step in (6, 0, 3):
        assert mixed(mixture, 26).step_examples(step).tolist() == steps[step]
    assert mixed(mixture, 26, seed=1).step_examples(0).tolist() != steps[0]
    # Two sources of one size have orders of their own.
    ids = mixed([(9, 1), (9, 1)], 18).between(0, 18)
    assert (ids[ids < 109] - 100).tolist() != (ids[ids >= 109] - 109).tolist()
    assert interleaved([3, 1]).tolist() == [0, 0, 1, 0]


@given(mixtures, st.integers(1, 200), st.data())
def test_tokens_are_counted_over_a_mixture(mixture, max_tokens, data):
    num_examples = sum(size for size, _ in mixture)
    counts = np.zeros(100 + num_examples, dtype=np.int64)
    counts[100:] = data.draw(st.lists(st.integers(1, 9), min_size=num_examples, max_size=num_examples))
    with mock.patch.object(batching, "_BLOCK", 7):
        number = num_examples_within(max_tokens, mixed(mixture, num_examples), counts, int(counts.sum()))
        seen = mixed(mixture, number).between(0, number + 1)
        assert total_over(mixed(mixture, number), counts, int(counts.sum())) == counts[seen[:-1]].sum() <= max_tokens
    assert counts[seen].sum() > max_tokens


def test_weights_become_whole_numbers():
    assert whole_weights([Fraction("0.75"), Fraction("0.25")]) == [3, 1]
    assert whole_weights([Fraction(6), Fraction(4), Fraction(1, 2)]) == [12, 8, 1]
    with pytest.raises(InputError, match=f"weights 0.123457, 1.0 are .* at most {LONGEST_CYCLE:,} are possible"):
        whole_weights([Fraction("0.123457"), Fraction(1)])


def test_a_word_is_split_where_its_end_is_a_weight(tmp_path):
    file, odd = tmp_path / "a.jsonl", tmp_path / "b=2"
    file.write_text("x")
    odd.mkdir()
    (odd / "c.jsonl").write_text("x")
    assert split_weight(f"{file}=3") == (str(file), 3)
    assert split_weight(f"{file}=.5") == (str(file), Fraction(1, 2))
    assert split_weight("hub:a/b:train=2") == ("hub:a/b:train", 2)
    assert split_weight(odd) == (str(odd), None)
    assert split_weight(f"{odd}=7") == (str(odd), 7)
    assert split_weight(f"{file}=x") == (f"{file}=x", None)
    assert resolve_sources([f"{odd}=7", f"{file}=3", str(tmp_path)]) == [(odd / "c.jsonl", 0), (file, 1)]
    for weight in ("0", "-1", "0.0"):
        with pytest.raises(InputError, match=rf"--data .*a\.jsonl={weight}: a weight is above 0"):
            resolve_paths([f"{file}={weight}"])
    with pytest.raises(InputError, match=r"no such file, directory or match: .*a\.jsonl=x"):
        resolve_paths([f"{file}=x"])
