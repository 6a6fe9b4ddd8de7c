"""Causal attention of a packed row on a CPU: forward and backward in blocks of queries, by plain products.

PyTorch's fused kernel has no fast bf16 backward on CPUs. Here every example is cut into blocks of queries; a
block sees the keys up to its own end, so nearly half of the square is never computed. Scores are fp32: rounded
to bf16 before the softmax they move SmolLM2's logits by a sixth of their spread.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch

BLOCK = 128
"""Queries in a block: the fp32 scores of 9 heads and 400 keys fit a core's second-level cache."""

KEPT_UP_TO = 512
"""Longest example, in tokens, whose attention weights are kept for the backward pass. Those of longer ones are
computed again: they grow with the square of the length."""

_FUTURE = torch.full((BLOCK, BLOCK), -1e30).triu(1)
"""Added to scores, hides keys of the future. Not -inf, and exp2 instead of exp: PyTorch's CPU kernel of exp is ten
times slower where it meets infinities, and slow where its results are 0."""


class PackedCausalAttention(torch.autograd.Function):
    """softmax(scaling Q K^T) V, causal within each segment of a packed row.

    query [H, T, D], key and value [G, T, D]; H / G neighbouring query heads share a key head. `boundaries` are
    0 = b0 < b1 < ... = T; segments after the first also see its first `prefix` tokens. Returns [H, T, D].
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        boundaries: list[int],
        prefix: int,
        scaling: float,
    ) -> torch.Tensor:
        output = torch.empty_like(query)
        kept = []
        for first, last in pairwise(boundaries):
            before = prefix if first else 0
            keys, values = _seen(key, first, last, before), _seen(value, first, last, before)
            for start, end, num_keys in _blocks(first, last, before):
                scores = _scores(_rows(query, start, end, key), keys[:, :num_keys], end - start)
                maxima = scores.amax(dim=-1, keepdim=True)
                weights = _exponentials(scores, maxima, scaling)
                sums = weights.sum(dim=-1, keepdim=True)
                weights = weights.to(value.dtype)
                block = (weights @ values[:, :num_keys]).div_(sums)
                output[:, start:end] = block.view(query.shape[0], end - start, -1)
                kept += [maxima, sums, weights if _is_kept(first, last) else weights.new_empty(0)]
        ctx.save_for_backward(query, key, value, output, *kept)
        ctx.boundaries, ctx.prefix, ctx.scaling = boundaries, prefix, scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, *kept = ctx.saved_tensors
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (torch.zeros_like(tensor, dtype=torch.float32) for tensor in (key, value))
        blocks = zip(kept[::3], kept[1::3], kept[2::3], strict=True)
        for first, last in pairwise(ctx.boundaries):
            before = ctx.prefix if first else 0
            keys, values = _seen(key, first, last, before), _seen(value, first, last, before)
            grad_keys, grad_values = (torch.zeros_like(tensor, dtype=torch.float32) for tensor in (keys, values))
            for start, end, num_keys in _blocks(first, last, before):
                maxima, sums, weights = next(blocks)
                block_query, block_output, grad = (
                    _rows(tensor, start, end, key) for tensor in (query, output, grads[0])
                )
                if not _is_kept(first, last):
                    scores = _scores(block_query, keys[:, :num_keys], end - start)
                    weights = _exponentials(scores, maxima, ctx.scaling).to(value.dtype)
                # The weights lack their division by `sums`: the small gradient is divided instead.
                grad = grad / sums.to(grad.dtype)
                grad_scores = _product(grad, values[:, :num_keys].transpose(1, 2))
                grad_scores -= (grad * block_output).sum(dim=-1, keepdim=True, dtype=torch.float32)
                grad_scores = grad_scores.mul_(weights.float()).to(query.dtype)
                grad_block = (grad_scores @ keys[:, :num_keys]).mul_(ctx.scaling)
                grad_query[:, start:end] = grad_block.view(query.shape[0], end - start, -1)
                grad_keys[:, :num_keys].add_(grad_scores.transpose(1, 2) @ block_query, alpha=ctx.scaling)
                grad_values[:, :num_keys] += weights.transpose(1, 2) @ grad
            for total, part in ((grad_key, grad_keys), (grad_value, grad_values)):
                total[:, :before] += part[:, :before]
                total[:, first:last] += part[:, before:]
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None, None


def _is_kept(first: int, last: int) -> bool:
    return last - first <= KEPT_UP_TO


def _seen(tensor: torch.Tensor, first: int, last: int, before: int) -> torch.Tensor:
    """Keys or values [G, before + last - first, D] of a segment: the prefix's, its own."""
    own = tensor[:, first:last]
    return torch.cat([tensor[:, :before], own], dim=1) if before else own


def _blocks(first: int, last: int, before: int) -> Iterator[tuple[int, int, int]]:
    """(first query, end of the queries, number of keys they see) of each block of a segment."""
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        yield start, end, before + end - first


def _rows(tensor: torch.Tensor, start: int, end: int, key: torch.Tensor) -> torch.Tensor:
    """Tokens start to end of [H, T, D], the heads that share keys below each other: [G, H / G * tokens, D]."""
    return tensor[:, start:end].reshape(key.shape[0], -1, tensor.shape[2])


def _scores(query: torch.Tensor, key: torch.Tensor, num_queries: int) -> torch.Tensor:
    """fp32 [G, rows, keys] of the block's products; very low where a key is in the future."""
    scores = _product(query, key.transpose(1, 2))
    newest = scores.view(key.shape[0], -1, num_queries, key.shape[1])[..., -num_queries:]
    newest += _FUTURE[:num_queries, :num_queries]
    return scores


def _exponentials(scores: torch.Tensor, maxima: torch.Tensor, scaling: float) -> torch.Tensor:
    """exp(scaling * (scores - maxima)), in place."""
    scaling *= math.log2(math.e)
    return torch.add(maxima * -scaling, scores, alpha=scaling, out=scores).exp2_()


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The fp32 product of two batches of matrices; of bf16 ones by bf16 hardware, with nothing rounded after."""
    with _bf16_hardware() if left.dtype == torch.bfloat16 else contextlib.nullcontext():
        return left.float() @ right.float()


@contextlib.contextmanager
def _bf16_hardware() -> Iterator[None]:
    """Let fp32 products round their factors to bf16: exact here, where the factors were bf16 before."""
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
