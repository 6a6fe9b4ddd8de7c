"""The seconds of an optimizer step, the sum of its terms: computing, gathering, reducing, saving, reading data.

The terms are arithmetic; the speeds of a GPU and of a link are inputs, which every result prints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from snake_dist.planning.communication import Links, seconds, step_collectives
from snake_dist.planning.shapes import MicroBatch, ModelSizes, Setup


@dataclass(frozen=True)
class Speed:
    """The assumed speeds of the machines."""

    flops: float
    """Peak of one rank in FLOP/s, dense, in the compute dtype."""
    efficiency: float
    """Share of the peak that a training step reaches, 0 to 1."""
    links: Links
    tokens_per_s: float | None = None
    """Measured rate of one rank, computing only; takes the place of `flops` and `efficiency`."""
    disk_bytes_per_s: float = 1e9
    """Bandwidth of the shared file system that rank 0 saves to."""
    data_s: float = 0.002
    """Seconds to collate a micro-batch from the memory map, before the step can start."""


def micro_batch_flops(model: ModelSizes, setup: Setup, batch: MicroBatch) -> float:
    """Count the multiplications and additions of one forward and backward pass.

    A frozen matrix costs 2 a weight and token forward and 2 for its input's gradient; its own gradient (2 more, in full
    fine-tuning) is never computed. Adapters cost 6. Recomputing (gradient checkpointing) adds the forward pass of
    the layers. Attention within an example: 2 products of T/2 positions on average.
    """
    forward_layers = 2.0 * model.num_layer_weights
    forward_attention = 2.0 * model.num_layers * model.attention_size * batch.tokens_per_example
    head = 2.0 * model.hidden_size * model.vocabulary * batch.trained_share
    per_token = 2 * (forward_layers + head) + 3.5 * forward_attention + 6.0 * model.num_trainable
    if setup.gradient_checkpointing:
        per_token += forward_layers + forward_attention + 2.0 * model.num_trainable
    return per_token * batch.tokens


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step by term, and of the whole."""

    compute: float
    gathers: float
    """Gathers of ZeRO-3, which overlap with computing."""
    reduction: float
    """Messages of gradients and updated adapter, after the last backward pass: they overlap with nothing."""
    checkpoint: float
    """Share of a save that falls on each step."""
    data: float

    @property
    def total(self) -> float:
        """Seconds if gathers overlap with computing: of these two, the longer counts."""
        return max(self.compute, self.gathers) + self.reduction + self.checkpoint + self.data

    @property
    def not_overlapped(self) -> float:
        """Seconds if nothing overlaps."""
        return self.total + min(self.compute, self.gathers)


def step_time(
    model: ModelSizes,
    setup: Setup,
    batch: MicroBatch,
    accumulation: int,
    speed: Speed,
    *,
    save_every: int = 0,
) -> StepTime:
    """Return the terms of one step of `accumulation` micro-batches on `setup.num_ranks` ranks."""
    gathers = reduction = 0.0
    for collective in step_collectives(model, setup, accumulation):
        took = seconds(collective, setup.num_ranks, speed.links)
        if collective.what in ("gradients", "updated adapter"):
            reduction += took
        else:
            gathers += took
    # A checkpoint holds adapter, fp32 masters and both moments.
    saved = model.num_trainable * (setup.element + 12)
    if speed.tokens_per_s is None:
        micro_batch_s = micro_batch_flops(model, setup, batch) / (speed.flops * speed.efficiency)
    else:
        micro_batch_s = batch.tokens / speed.tokens_per_s
    return StepTime(
        compute=accumulation * micro_batch_s,
        gathers=gathers,
        reduction=reduction,
        checkpoint=saved / speed.disk_bytes_per_s / save_every if save_every else 0.0,
        data=accumulation * speed.data_s,
    )


def run_length(num_examples: int, epochs: float, global_batch_size: int) -> int:
    """Return the number of optimizer steps of a run."""
    return math.ceil(num_examples * epochs / global_batch_size)
