"""Blockwise attention equals PyTorch's own, forward and backward, whatever the lengths and the shared prefix."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from snake_dist.model.cpu_attention import BLOCK, KEPT_UP_TO, PackedCausalAttention

HEADS, GROUPS, SIZE, SCALING = 4, 2, 16, 0.3


def reference(query, key, value, boundaries, prefix):
    """Every segment on its own, its prefix's keys before it, under a mask written out."""
    key, value = (tensor.repeat_interleave(HEADS // GROUPS, dim=0) for tensor in (key, value))
    outputs = []
    for first, last in pairwise(boundaries):
        before = prefix if first else 0
        keys, values = (torch.cat([t[:, :before], t[:, first:last]], dim=1) for t in (key, value))
        mask = torch.ones(last - first, keys.shape[1], dtype=torch.bool).tril(before)
        outputs.append(scaled_dot_product_attention(query[:, first:last], keys, values, attn_mask=mask, scale=SCALING))
    return torch.cat(outputs, dim=1)


def with_gradients(function, query, key, value, *arguments):
    inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    output = function(*inputs, *arguments)
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output))
    return [output.detach(), *(tensor.grad for tensor in inputs)]


@pytest.mark.parametrize(
    ("boundaries", "prefix"),
    [
        ([0, 1, 3], 0),
        ([0, BLOCK, 2 * BLOCK + 1, 2 * BLOCK + 40], 0),
        ([0, KEPT_UP_TO + 30, KEPT_UP_TO + 50], 0),  # the first example's weights are computed again
        ([0, 20, 20 + BLOCK + 5, 200], 20),
        ([0, BLOCK + 7, BLOCK + 9], BLOCK + 7),
    ],
)
def test_it_equals_attention_under_a_mask(boundaries, prefix):
    torch.manual_seed(0)
    query, key, value = (torch.randn(heads, boundaries[-1], SIZE) for heads in (HEADS, GROUPS, GROUPS))
    expected = with_gradients(reference, query, key, value, boundaries, prefix)
    found = with_gradients(PackedCausalAttention.apply, query, key, value, boundaries, prefix, SCALING)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 5e-6 * other.abs().max()


def test_in_bf16_it_is_as_close_to_the_truth_as_pytorchs_kernel():
    torch.manual_seed(0)
    boundaries, prefix = [0, 30, 230, 300], 30
    exact = [torch.randn(heads, 300, SIZE).bfloat16() for heads in (HEADS, GROUPS, GROUPS)]
    truth = with_gradients(reference, *(tensor.double() for tensor in exact), boundaries, prefix)
    own = with_gradients(PackedCausalAttention.apply, *exact, boundaries, prefix, SCALING)
    torchs = with_gradients(reference, *exact, boundaries, prefix)
    for one, other, true in zip(own, torchs, truth, strict=True):
        assert (one - true).norm() < 2.5 * (other - true).norm()
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"  # other fp32 products are left alone


def test_scores_beyond_any_exponential_stay_finite():
    query = torch.full((HEADS, 5, SIZE), 100.0)
    key, value = torch.randn(GROUPS, 5, SIZE) * 100, torch.randn(GROUPS, 5, SIZE)
    found = with_gradients(PackedCausalAttention.apply, query, key, value, [0, 5], 0, SCALING)
    assert all(torch.isfinite(tensor).all() for tensor in found)
