"""The examples of each step: pure functions of seed, epoch and step. Rank and world size are arguments.

The examples of a run form one stream: epoch 0 shuffled, then epoch 1 shuffled anew, and so on. Step k takes
the k-th slice of `global_batch_size` examples on any number of ranks; only the run's last step may be smaller.
So the cursor of a run is one integer, and a run can resume on another number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from snake_dist.errors import InputError

LONGEST_TABLE = 1 << 20
"""Up to this many examples an epoch's order is a table, of 8 MiB at most; beyond, it is computed per position."""
_FEISTEL_ROUNDS = 6
_BLOCK = 1 << 16
"""Examples counted at a time."""


def accumulation_steps(global_batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the micro-batches per rank and step: the fewest whose examples are at most `micro_batch_size` each.

    Where the sizes do not divide evenly, micro-batches differ by one example: the loss is summed over the step and
    divided once, so it stays exact. Raises InputError if a rank would have no example.
    """
    if global_batch_size < world_size:
        raise InputError(
            f"--global-batch-size {global_batch_size}: at least the number of ranks, {world_size}, "
            "so that each has an example"
        )
    return math.ceil(global_batch_size / (world_size * micro_batch_size))


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the positions in this epoch's order, int64 [num_examples]. The same on every machine."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_examples)


def shuffled(positions: np.ndarray, num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return where a permutation of range(num_examples) takes these positions, int64, without a table of it.

    A Feistel network on the next power of four, walked until it is back in range (Black and Rogaway, 2002).
    """
    half = np.uint64(max(1, math.ceil((num_examples - 1).bit_length() / 2)))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_FEISTEL_ROUNDS, np.uint64)
    found = np.array(positions, dtype=np.uint64)
    outside = np.ones(len(found), dtype=bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[outside] = left << half | right
        outside = found >= np.uint64(num_examples)
    return found.astype(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele, Lea, Flood, 2014): every bit depends on every bit."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


class ExampleStream:
    """The shuffled epochs, end to end, one step at a time. Keeps the order of the last epoch asked for, unless the
    epoch is longer than `LONGEST_TABLE`."""

    def __init__(self, examples: np.ndarray, seed: int, global_batch_size: int, num_examples_total: int) -> None:
        """`examples`: ids to draw from; `num_examples_total`: length of the stream, the last step's end."""
        self.examples, self.seed = examples, seed
        self.global_batch_size, self.num_examples_total = global_batch_size, num_examples_total
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    @property
    def period(self) -> int | None:
        """Return after how many examples, counted from the start, all have come equally often; None: never."""
        return len(self.examples)

    @property
    def num_steps(self) -> int:
        """Return the number of steps that show the whole stream."""
        return math.ceil(self.num_examples_total / self.global_batch_size)

    def step_examples(self, step: int) -> np.ndarray:
        """Return the ids of the examples of step `step` (from 0)."""
        start = step * self.global_batch_size
        return self.between(start, min(start + self.global_batch_size, self.num_examples_total))

    def between(self, start: int, end: int) -> np.ndarray:
        """Return the ids of the examples from `start` up to, not including, `end`, even beyond the stream's end."""
        epochs, positions = np.divmod(np.arange(start, end), len(self.examples))
        parts = [self._positions(positions[epochs == epoch], int(epoch)) for epoch in np.unique(epochs)]
        return np.asarray(self.examples[np.concatenate(parts)], dtype=np.int64)

    def _positions(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        if len(self.examples) > LONGEST_TABLE:
            return shuffled(positions, len(self.examples), self.seed, epoch)
        last = self._last  # read and replaced as one: a thread that prepares the next step asks too
        if last[0] != epoch:
            last = self._last = epoch, epoch_order(len(self.examples), self.seed, epoch)
        return last[1][positions]


def num_examples_within(max_tokens: int, stream: ExampleStream, lengths: np.ndarray, tokens_per_epoch: int) -> int:
    """Return how many examples, from the stream's first on, have at most `max_tokens` tokens together.

    `lengths`: tokens of each example; `tokens_per_epoch`: of all that the stream draws from.
    """
    epochs, left = divmod(max_tokens, tokens_per_epoch) if stream.period else (0, max_tokens)
    num_examples = epochs * (stream.period or 0)
    for ids in _blocks(stream, num_examples, None):
        sums = np.cumsum(lengths[ids], dtype=np.int64)
        num_fitting = int(np.searchsorted(sums, left, side="right"))
        num_examples += num_fitting
        if num_fitting < len(ids):
            break
        left -= int(sums[-1])
    return num_examples


def total_over(stream: ExampleStream, counts: np.ndarray, total_per_epoch: int) -> int:
    """Return the sum over the whole stream of `counts`, a number for each example."""
    total = stream.num_examples_total
    epochs = total // stream.period if stream.period else 0
    start = epochs * (stream.period or 0)
    return epochs * total_per_epoch + sum(int(counts[ids].sum()) for ids in _blocks(stream, start, total))


def _blocks(stream: ExampleStream, start: int, end: int | None) -> Iterator[np.ndarray]:
    """Yield the ids from `start` on, up to `end` or for ever."""
    first = start
    while end is None or first < end:
        yield stream.between(first, first + _BLOCK if end is None else min(first + _BLOCK, end))
        first += _BLOCK


def micro_batches(
    ids: np.ndarray,
    lengths: np.ndarray,
    *,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    accumulation: int,
) -> list[np.ndarray]:
    """Return this rank's `accumulation` micro-batches of the step with examples `ids` and token counts `lengths`.

    Examples are dealt out by falling length, back and forth, so that micro-batches are nearly equal in tokens.
    Which examples share a micro-batch depends on the number of micro-batches only, not on how they are spread
    over ranks. In a run's last step micro-batches may be short, or empty.
    """
    num_micro_batches = world_size * accumulation
    if len(ids) > num_micro_batches * micro_batch_size:
        raise ValueError(f"{len(ids)} examples do not fit {num_micro_batches} micro-batches of {micro_batch_size}")
    by_length = ids[np.lexsort((ids, -lengths))]
    turns = np.arange(num_micro_batches)
    back_and_forth = np.concatenate([turns, turns[::-1]])
    dealt_to = np.resize(back_and_forth, len(ids))
    return [by_length[dealt_to == index * world_size + rank] for index in range(accumulation)]
