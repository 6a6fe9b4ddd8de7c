"""PyTorch's variable-length kernel in plain PyTorch, for machines that do not have it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

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
    return torch.ops.snake_dist_tests.varlen(
        *(query, key, value, segments.query_ends, segments.key_ends),
        *(segments.longest_query, segments.longest_keys, scaling, window),
    )


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    longest_keys: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    outputs = []
    for (first, last), (first_key, last_key) in zip(
        pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True
    ):
        length, num_keys = last - first, last_key - first_key
        assert length <= longest_query
        assert num_keys <= longest_keys
        visible = torch.ones(length, num_keys, dtype=torch.bool).tril(num_keys - length)
        if window is not None:
            visible = visible.triu(num_keys - length + 1 - window)
        own_key, own_value = (t[first_key:last_key].repeat_interleave(groups, dim=1) for t in (key, value))
        heads = [t.transpose(0, 1)[None] for t in (query[first:last], own_key, own_value)]
        output = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=visible, scale=scaling)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


# One operation, as PyTorch's is: a compiler sees neither its loop nor its places.
_TENSORS = "Tensor query, Tensor key, Tensor value, Tensor query_ends, Tensor key_ends"
_NUMBERS = "SymInt longest_query, SymInt longest_keys, float? scaling, SymInt? window"
torch.library.define("snake_dist_tests::varlen", f"({_TENSORS}, {_NUMBERS}) -> Tensor")
torch.library.define(
    "snake_dist_tests::varlen_backward", f"(Tensor grad, {_TENSORS}, {_NUMBERS}) -> (Tensor, Tensor, Tensor)"
)


@torch.library.impl("snake_dist_tests::varlen", "cpu")
def _forward(*args: Any) -> torch.Tensor:
    return _attend(*args).contiguous()


@torch.library.impl("snake_dist_tests::varlen_backward", "cpu")
def _backward(grad: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in args[:3]]
        return torch.autograd.grad(_attend(*inputs, *args[3:]), inputs, grad)


@torch.library.register_fake("snake_dist_tests::varlen")
def _shape(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


@torch.library.register_fake("snake_dist_tests::varlen_backward")
def _shapes(_grad: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in args[:3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - PyTorch calls it so
    ctx.save_for_backward(*inputs[:5])
    ctx.numbers = inputs[5:]


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    found = torch.ops.snake_dist_tests.varlen_backward(grad, *ctx.saved_tensors, *ctx.numbers)
    return *found, *[None] * 6


torch.library.register_autograd("snake_dist_tests::varlen", _gradients, setup_context=_save)
