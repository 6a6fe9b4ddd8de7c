"""What the steps of a run share on one rank: engine, examples, this rank's part of them, and its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from snake_dist.data.batching import ExampleStream, micro_batches
from snake_dist.data.dataset import TokenizedDataset
from snake_dist.data.packing import Batch, Example
from snake_dist.training.adalora_ranks import RankAllocation
from snake_dist.training.config import TrainingConfig
from snake_dist.training.prefetch import OneAhead

Collate = Callable[[Sequence[Example]], Batch]


@dataclass(frozen=True)
class Share:
    """This process's part of the work."""

    rank: int
    world_size: int
    micro_batch_size: int
    accumulation: int

    def micro_batches(self, ids: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
        """Return the ids of this rank's micro-batches of one step; see `data.batching.micro_batches`."""
        return micro_batches(
            ids,
            lengths[ids],
            micro_batch_size=self.micro_batch_size,
            rank=self.rank,
            world_size=self.world_size,
            accumulation=self.accumulation,
        )


@dataclass(frozen=True)
class Trainer:
    """Everything that the steps of a run share on this rank."""

    engine: Any
    dataset: TokenizedDataset
    stream: ExampleStream
    share: Share
    collate: Collate
    config: TrainingConfig
    allocation: RankAllocation | None = None
    """AdaLoRA's allocation of matrix ranks to modules; None for other adapters."""

    def batches(self, dataset: TokenizedDataset, ids: np.ndarray) -> Iterator[tuple[bool, Batch]]:
        """Yield (whether it is empty, batch on the device) of this rank's micro-batches of `dataset`'s examples `ids`.

        An empty micro-batch holds the first example, with which the rank takes part in the others' collectives.
        """
        for micro_ids in self.share.micro_batches(ids, dataset.lengths):
            chosen = micro_ids if len(micro_ids) else ids[:1]
            batch = self.collate([dataset[i] for i in chosen]).to(self.engine.device)
            yield len(micro_ids) == 0, batch

    def dropout_seed(self, step: int, index: int) -> int:
        """Return the seed of this rank's micro-batch `index` of step `step`, both from 0."""
        micro_batch = index * self.share.world_size + self.share.rank
        seed = np.random.SeedSequence([self.config.seed, step, micro_batch]).generate_state(1, np.uint64)[0]
        return int(seed >> np.uint64(1))

    @cached_property
    def ahead(self) -> OneAhead[list[tuple[bool, Batch]]]:
        """The batches of the stream's steps, prepared while the device computes."""
        return OneAhead(
            lambda step: list(self.batches(self.dataset, self.stream.step_examples(step))), self.stream.num_steps
        )
