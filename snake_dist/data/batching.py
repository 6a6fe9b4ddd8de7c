"""Which examples make up which step: pure functions of seed, epoch and step. Rank and world size are arguments.

The examples of a run form one stream: epoch 0 shuffled, then epoch 1 shuffled anew, and so on. Step k takes
the k-th slice of `global_batch_size` examples, whatever the number of ranks; only the run's last step may be
smaller. So the cursor of a run is one integer, and a run can go on with another number of ranks.
"""

from __future__ import annotations

import math

import numpy as np

from snake_dist.errors import InputError


def num_steps_for(num_examples: int, epochs: float, global_batch_size: int) -> int:
    """Steps that show each of `num_examples` examples `epochs` times."""
    return math.ceil(round(num_examples * epochs) / global_batch_size)


def accumulation_steps(global_batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Micro-batches per rank and step. Raises InputError unless the sizes divide evenly."""
    if global_batch_size % (world_size * micro_batch_size):
        raise InputError(
            f"--global-batch-size {global_batch_size} is not divisible by "
            f"{world_size} ranks x --micro-batch-size {micro_batch_size}"
        )
    return global_batch_size // (world_size * micro_batch_size)


def epoch_order(examples: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The ids in `examples`, shuffled for this epoch. The same on every machine."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(examples)


class ExampleStream:
    """The shuffled epochs, end to end, one step at a time. Keeps the last epoch's order so as not to redo it."""

    def __init__(self, examples: np.ndarray, seed: int, global_batch_size: int, num_examples_total: int) -> None:
        """`examples`: ids to draw from; `num_examples_total`: length of the stream, the last step's end."""
        self.examples, self.seed = examples, seed
        self.global_batch_size, self.num_examples_total = global_batch_size, num_examples_total
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def step_examples(self, step: int) -> np.ndarray:
        """Ids of the examples of step `step` (from 0)."""
        start = step * self.global_batch_size
        end = min(start + self.global_batch_size, self.num_examples_total)
        return np.array([self._example_at(position) for position in range(start, end)], dtype=np.int64)

    def _example_at(self, position: int) -> int:
        epoch, index = divmod(position, len(self.examples))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.examples, self.seed, epoch)
        return int(self._order[index])


def micro_batches(
    ids: np.ndarray,
    lengths: np.ndarray,
    *,
    micro_batch_size: int,
    rank: int,
    world_size: int,
    accumulation: int,
) -> list[np.ndarray]:
    """This rank's `accumulation` micro-batches of the step with examples `ids` and token counts `lengths`.

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
