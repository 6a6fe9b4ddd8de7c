"""The order of a run's examples, from what the flags say of data, length and seed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from snake_dist.data.batching import ExampleStream, num_examples_within
from snake_dist.data.dataset import TokenizedDataset
from snake_dist.data.mixture import MixedStream, whole_weights
from snake_dist.data.sources import resolve_sources, split_weight
from snake_dist.errors import InputError
from snake_dist.run.data import RunData
from snake_dist.training.config import TrainingConfig


@dataclass(frozen=True)
class Source:
    """One word of --data, where weights are given."""

    name: str
    weight: int
    """Its examples of every sum of all weights."""
    ids: np.ndarray
    """Of its training examples."""


def open_stream(training: TrainingConfig, data: RunData, sources: list[Source]) -> ExampleStream:
    """Return all examples of the run in their order. Raises InputError if there is none."""
    size, examples = training.global_batch_size, data.train_examples

    def stream(num_examples: int) -> ExampleStream:
        if not sources:
            return ExampleStream(examples, training.seed, size, num_examples)
        ids, weights = [source.ids for source in sources], [source.weight for source in sources]
        return MixedStream(examples, ids, weights, training.seed, size, num_examples)

    if training.max_steps is not None:
        return stream(training.max_steps * size)
    if training.max_tokens is None:
        limit, num_examples = f"--epochs {training.epochs:g}", round(len(examples) * training.epochs)
    else:
        limit, epoch = f"--max-tokens {training.max_tokens}", stream(len(examples))
        num_examples = num_examples_within(training.max_tokens, epoch, data.dataset.lengths, data.training.num_tokens)
    if num_examples == 0:
        raise InputError(f"{limit}: the run would see none of the {len(examples)} examples")
    return stream(num_examples)


def weighted_sources(words: tuple[str, ...], dataset: TokenizedDataset, train_examples: np.ndarray) -> list[Source]:
    """Return the sources of --data if any of its words has a weight, which is 1 for the others; else nothing.

    Raises InputError for a source without training examples.
    """
    split = [split_weight(word) for word in words]
    if all(weight is None for _, weight in split):
        return []
    weights = whole_weights([weight or Fraction(1) for _, weight in split])
    sizes = dict.fromkeys(range(len(words)), 0)
    for (_, source), (_, size) in zip(resolve_sources(words), dataset.forms.values(), strict=True):
        sizes[source] += size
    # Examples are stored in the order of the files, and these in the order of the words; ids rise.
    ends = np.searchsorted(train_examples, np.cumsum(list(sizes.values())))
    parts = np.split(train_examples, ends[:-1])
    for word, ids in zip(words, parts, strict=True):
        if not len(ids):
            raise InputError(f"--data {word}: no training example is of this source alone: leave it out")
    return [Source(Path(name).name, weight, ids) for (name, _), weight, ids in zip(split, weights, parts, strict=True)]


def mixture_fingerprint(sources: list[Source]) -> dict[str, list[list[int]]]:
    """Return what a mixture adds to the fingerprint: weight and number of examples of each source."""
    return {"--data, weights": [[source.weight, len(source.ids)] for source in sources]} if sources else {}


def render_sources(sources: list[Source], stream: ExampleStream) -> list[str]:
    """Return a line for each source of a mixture: its share and how often the run passes through it."""
    if not isinstance(stream, MixedStream):
        return []
    total = sum(source.weight for source in sources)
    return [
        f"{source.name}: {source.weight} of {total} examples, "
        f"{stream.num_seen(i, stream.num_examples_total) / len(source.ids):.3g} epochs of its {len(source.ids):,}"
        for i, source in enumerate(sources)
    ]
