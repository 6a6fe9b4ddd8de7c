"""PyTorch's variable-length kernel in plain PyTorch, for machines that do not have it."""

from __future__ import annotations

from itertools import pairwise

import torch

from snake_dist.segments import Segments


def varlen_in_pytorch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """What `attention.varlen` computes from what it hands to the kernel."""
    groups = query.shape[1] // key.shape[1]
    outputs = []
    queries, keys = (pairwise(ends.tolist()) for ends in (segments.query_ends, segments.key_ends))
    for (first, last), (first_key, last_key) in zip(queries, keys, strict=True):
        length, num_keys = last - first, last_key - first_key
        assert length <= segments.longest_query
        assert num_keys <= segments.longest_keys
        visible = torch.ones(length, num_keys, dtype=torch.bool).tril(num_keys - length)
        if window is not None:
            visible = visible.triu(num_keys - length + 1 - window)
        own_key, own_value = (t[first_key:last_key].repeat_interleave(groups, dim=1) for t in (key, value))
        heads = [t.transpose(0, 1)[None] for t in (query[first:last], own_key, own_value)]
        output = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=visible, scale=scaling)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)
