"""On an accelerator a layer launches few kernels, whatever it is given, and never waits for the device."""

from __future__ import annotations

import pytest

from tests.support.kernel_count import of_a_layer

WAITS = {"_local_scalar_dense", "nonzero", "_to_copy", "item", "is_nonzero", "equal", "masked_select"}


@pytest.mark.parametrize(("is_fused", "most"), [(False, 190), (True, 120)])
def test_a_layer_launches_few_kernels_and_waits_for_none(is_fused, most):
    kernels = of_a_layer(32, 0.05, is_fused=is_fused)
    assert 50 < kernels.total() <= most, kernels
    assert not kernels.keys() & WAITS
    assert kernels["_varlen_attn"] == kernels["_varlen_attn_backward"] == 1


def test_their_number_does_not_depend_on_the_number_of_examples():
    assert of_a_layer(4, 0.05, is_fused=False) == of_a_layer(32, 0.05, is_fused=False)
