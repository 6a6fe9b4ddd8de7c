from __future__ import annotations

import pytest
import torch

from snake_dist.model.adapters import AdapterConfig, attach
from snake_dist.model.base import load_base
from snake_dist.model.dropout import CpuDropout, use_cpu_dropout


@pytest.mark.parametrize("p", [0.02, 0.5])
def test_it_is_inverted_dropout(p):
    x = torch.ones(1000, 100)
    dropped = CpuDropout(p)(x)
    share = (dropped == 0).float().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    assert dropped[dropped != 0].unique().numel() == 1
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(CpuDropout(p).eval()(x), x)


def test_torchs_seed_decides_and_every_call_draws_anew():
    x, dropout = torch.ones(50, 50), CpuDropout(0.5)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_gradients_pass_where_values_do():
    x = torch.ones(50, 50, requires_grad=True)
    dropped = CpuDropout(0.5)(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_every_adapted_layer_gets_it(llama_dir):
    model = attach(load_base(str(llama_dir), "float32"), AdapterConfig(dropout=0.3))
    use_cpu_dropout(model)
    kinds = [module for module in model.modules() if isinstance(module, CpuDropout)]
    assert len(kinds) == 14
    assert all(module.p == 0.3 for module in kinds)
