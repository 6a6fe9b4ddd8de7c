"""Several sources mixed by weight: of every `sum(weights)` examples in a row, each source gives exactly its weight.

Like the plain stream, a pure function of seed and step on any number of ranks. Each source runs through shuffled epochs
of its own, as often as its weight asks; a small one is repeated, a large one may not be seen whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from snake_dist.data.batching import ExampleStream
from snake_dist.errors import InputError

LONGEST_CYCLE = 1 << 16
"""Examples after which the order of the sources repeats, at most."""


class MixedStream(ExampleStream):
    """A stream that draws from several sources."""

    def __init__(
        self,
        examples: np.ndarray,
        sources: Sequence[np.ndarray],
        weights: Sequence[int],
        seed: int,
        global_batch_size: int,
        num_examples_total: int,
    ) -> None:
        """`examples`: all ids; `sources`: those of each source, none empty; `weights`: see `whole_weights`."""
        super().__init__(examples, seed, global_batch_size, num_examples_total)
        seeds = [int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0]) for i in range(len(sources))]
        # Nobody asks a source's stream for steps or its end.
        self._streams = [ExampleStream(ids, own, 1, 0) for ids, own in zip(sources, seeds, strict=True)]
        self._weights = np.array(weights)
        self._source_of_slot = interleaved(weights)

    @property
    def period(self) -> int | None:
        return None

    def between(self, start: int, end: int) -> np.ndarray:
        positions = np.arange(start, end)
        source_of = self._source_of_slot[positions % len(self._source_of_slot)]
        ids = np.empty(len(positions), dtype=np.int64)
        for source, stream in enumerate(self._streams):
            first, last = self.num_seen(source, start), self.num_seen(source, end)
            if last > first:
                ids[source_of == source] = stream.between(first, last)
        return ids

    def num_seen(self, source: int, num_examples: int) -> int:
        """Return how many of the stream's first `num_examples` are of this source."""
        cycles, slots = divmod(num_examples, len(self._source_of_slot))
        in_part = int((self._source_of_slot[:slots] == source).sum())
        return cycles * int(self._weights[source]) + in_part


def interleaved(weights: Sequence[int]) -> np.ndarray:
    """Return the source of each of `sum(weights)` examples, every source spread evenly over them."""
    sources = np.repeat(np.arange(len(weights)), weights)
    times = np.concatenate([(np.arange(weight) + 0.5) / weight for weight in weights])
    return sources[np.lexsort((sources, times))]


def whole_weights(weights: Sequence[Fraction]) -> list[int]:
    """Return the smallest whole numbers in the same ratio. Raises InputError if they are too large."""
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    shared = math.gcd(*whole)
    whole = [weight // shared for weight in whole]
    if sum(whole) > LONGEST_CYCLE:
        raise InputError(
            f"--data: the weights {', '.join(str(float(weight)) for weight in weights)} are {sum(whole):,} parts, "
            f"{':'.join(map(str, whole))}; at most {LONGEST_CYCLE:,} are possible: use rounder numbers"
        )
    return whole
