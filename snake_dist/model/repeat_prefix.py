"""Keys and values of a shared prompt prefix, repeated before those of each example for a variable-length kernel."""

from __future__ import annotations

from typing import Any

import torch

from snake_dist.segments import Segments


def repeat_prefix(tokens: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Return keys or values [keys, G, D] in the order of `segments` from those of a row's tokens [T, G, D]."""
    return RepeatPrefix.apply(tokens, segments.key_tokens, segments.own_places, segments.copy_places, segments.prefix)


class RepeatPrefix(torch.autograd.Function):
    """Place i of the output is the row `key_tokens[i]` of `tokens`.

    The backward pass adds the copies' gradients in fp32 and in a fixed order, which an indexed addition would not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: torch.Tensor,
        key_tokens: torch.Tensor,
        own_places: torch.Tensor,
        copy_places: torch.Tensor,
        prefix: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(own_places, copy_places)
        ctx.prefix = prefix
        return tokens.index_select(0, key_tokens)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        own_places, copy_places = ctx.saved_tensors
        total = grads[0].index_select(0, own_places)
        copies = grads[0].index_select(0, copy_places).view(-1, ctx.prefix, *total.shape[1:])
        total.narrow(0, 0, ctx.prefix).add_(copies.sum(0, dtype=torch.float32))
        return total, None, None, None, None
