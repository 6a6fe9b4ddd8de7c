from __future__ import annotations

import pytest
import torch

from snake_dist.model.adapters import AdapterConfig, attach
from snake_dist.model.base import load_base
from snake_dist.model.dropout import LoraDropout, SharedDropout, as_factor, keep_mask, true_rate, use_shared_dropout


@pytest.mark.parametrize("p", [0.02, 0.5])
def test_it_is_inverted_dropout(p):
    x = torch.ones(1000, 100)
    dropped = LoraDropout(p, SharedDropout())(x)
    share = (dropped == 0).float().mean().item()
    true = true_rate(p)
    assert true == pytest.approx(p, abs=1 / 512)
    assert share == pytest.approx(true, abs=4 * (true * (1 - true) / x.numel()) ** 0.5)
    assert dropped[dropped != 0].unique().numel() == 1
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(LoraDropout(p, SharedDropout()).eval()(x), x)


def test_torchs_seed_decides_and_every_call_draws_anew():
    x, dropout = torch.ones(50, 50), LoraDropout(0.5, SharedDropout())
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x.clone())
    torch.manual_seed(1)
    assert torch.equal(dropout(x.clone()), first)
    assert not torch.equal(first, second)


def test_gradients_pass_where_values_do():
    x = torch.ones(50, 50, requires_grad=True)
    dropped = LoraDropout(0.5, SharedDropout())(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_every_adapted_layer_gets_it(llama_dir):
    model = attach(load_base(str(llama_dir), "float32"), AdapterConfig(dropout=0.3))
    use_shared_dropout(model)
    kinds = [module for module in model.modules() if isinstance(module, LoraDropout)]
    assert len(kinds) == 14
    assert all(module.p == 0.3 for module in kinds)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_factors_are_the_mask_in_any_dtype(dtype):
    mask = keep_mask(torch.ones(3, 70), 0.5)
    assert torch.equal(as_factor(mask, dtype), mask.to(dtype))


def test_layers_with_one_input_share_a_mask_and_the_next_input_gets_its_own():
    dropout, x = SharedDropout(), torch.ones(50, 50, requires_grad=True)
    torch.manual_seed(1)
    dropped, kept = dropout(x, 0.5)
    again, _ = dropout(x.view_as(x), 0.5)  # a new tensor object over the same memory
    assert again is dropped
    assert torch.equal(dropped, kept.float())
    other, _ = dropout(torch.ones(50, 50), 0.5)
    assert not torch.equal(other, dropped)
    torch.manual_seed(1)
    assert torch.equal(SharedDropout()(x, 0.5)[0], dropped)
