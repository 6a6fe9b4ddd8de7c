"""The loss of completions: a sum in fp32 over trained tokens, with logits only where a label is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snake_dist.data.packing import IGNORED, Batch

if TYPE_CHECKING:
    import torch


def forward_trained(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (logits [K, V], labels [K], example index [K]) of the K trained positions; never the whole [B, T, V]."""
    import torch

    trained_BT = batch.labels_BT != IGNORED
    # Columns in which any row trains a token: exact for a packed row, a superset for padded ones.
    columns = torch.nonzero(trained_BT.any(dim=0)).flatten()
    # use_cache=False: with a cache, examples of a packed row would silently see each other.
    logits_BCV = model(**batch.inputs, use_cache=False, logits_to_keep=columns).logits
    if batch.boundaries is not None:
        first = 2 if batch.shared_prefix_length else 1
        ends = batch.boundaries[first:].to(columns.device, columns.dtype)
        return logits_BCV[0], batch.labels_BT[0, columns], torch.searchsorted(ends, columns, right=True)
    kept_BC = trained_BT[:, columns]
    rows_K, _ = torch.nonzero(kept_BC, as_tuple=True)
    return logits_BCV[kept_BC], batch.labels_BT[:, columns][kept_BC], rows_K


def loss_sum(logits_KV: torch.Tensor, labels_K: torch.Tensor) -> torch.Tensor:
    """Return the sum (not mean) of the cross-entropy over K tokens in fp32: divide once, by the tokens of all ranks.

    Overwrites `logits_KV` with its own gradient if it needs one.
    """
    from snake_dist.training.cross_entropy import CrossEntropySum

    return CrossEntropySum.apply(logits_KV, labels_K)
