"""The loss of completions: a sum in fp32 over trained tokens, with logits only where a label is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from snake_dist.data.packing import Batch
from snake_dist.errors import RankError

if TYPE_CHECKING:
    import torch


def forward_trained(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (logits [K, V], labels [K], example index [K]) of the K trained positions; never the whole [B, T, V]."""
    # use_cache=False: with a cache, examples of a packed row would silently see each other.
    logits_BCV = model(**batch.inputs, use_cache=False, logits_to_keep=batch.columns_C).logits
    if batch.segments is not None:
        return logits_BCV.squeeze(0), batch.labels_K, batch.examples_K  # unlike [0], its gradient is a view too
    # Columns in which any row trains a token: exact for a packed row, a superset for padded ones.
    return logits_BCV[batch.examples_K, batch.places_K], batch.labels_K, batch.examples_K


def loss_sum(logits_KV: torch.Tensor, labels_K: torch.Tensor) -> torch.Tensor:
    """Return the sum (not mean) of the cross-entropy over K tokens in fp32: divide once, by the tokens of all ranks.

    Overwrites `logits_KV` with its own gradient if it needs one.
    """
    from snake_dist.training.cross_entropy import CrossEntropySum

    return CrossEntropySum.apply(logits_KV, labels_K)


@contextmanager
def naming_the_batch(batch: Batch, rank: int) -> Iterator[None]:
    """Raise a RankError that names the rank and the batch where the block runs out of memory."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        is_named = isinstance(problem, (torch.OutOfMemoryError, MemoryError))
        if not is_named and "can't allocate memory" not in str(problem):  # PyTorch's on a CPU is a plain RuntimeError
            raise
        rows, length = batch.input_ids_BT.shape
        raise RankError(
            f"rank {rank} ran out of memory on a micro-batch of {batch.num_examples} examples, {rows} x {length} "
            "tokens: lower --micro-batch-size or --sequence-length, or use --gradient-checkpointing"
        ) from problem
