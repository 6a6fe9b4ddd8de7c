"""Decoder layers as one graph: every family compiles without a break, once for all rows, to what it computes as is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from snake_dist import accelerator
from snake_dist.data.packing import Example, pack, pad
from snake_dist.model import attention
from snake_dist.model.adapters import AdapterConfig, attach
from snake_dist.model.base import load_base
from snake_dist.model.compiled_layers import compile_layers
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops
from snake_dist.model.packing_proof import use_packed_attention
from snake_dist.training.loss import forward_trained, loss_sum
from tests.support.tiny_models import SHAPES, tiny_model
from tests.support.varlen import varlen_in_pytorch

WITH_ATTENTION_DROPOUT = {"gpt2"}
"""Its attention stays outside of the graphs, example by example."""


@pytest.fixture(autouse=True)
def _as_on_a_gpu() -> Iterator[None]:
    """On the CPU, the operations that a CUDA device would run."""
    torch._dynamo.reset()
    counters.clear()
    with (
        patch.object(accelerator, "runs_on_cpu", lambda _tensor: False),
        patch.object(attention, "has_varlen", lambda _query: True),
        patch.object(attention, "varlen", varlen_in_pytorch),
    ):
        yield
    torch._dynamo.reset()


def rows(seed: int, number: int) -> list[Example]:
    draw = np.random.default_rng(seed)
    prefix = draw.integers(0, 200, size=20)
    own = [np.concatenate([[200 + i], draw.integers(0, 200, size=9 + 5 * i)]) for i in range(number)]
    return [Example(np.concatenate([prefix, each]), 24) for each in own]


def trained_model(directory: str, dropout: float) -> tuple[torch.nn.Module, bool]:
    model = load_base(directory, "float32")
    packs = use_packed_attention(model)
    torch.manual_seed(0)
    model = attach(model, AdapterConfig(rank=4, dropout=dropout), num_steps=10)
    use_shared_dropout(model)
    use_fast_ops(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model.train(), packs


def loss_and_gradients(model: torch.nn.Module, batch: object) -> torch.Tensor:
    model.zero_grad()
    torch.manual_seed(5)
    logits, labels, _ = forward_trained(model, batch)
    loss = loss_sum(logits, labels)
    loss.backward()
    return torch.cat([loss.detach()[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])


@pytest.mark.parametrize("family", SHAPES)
def test_a_layer_is_one_graph_for_all_rows(family, tmp_path):
    # More than two layers: with two, a graph for each layer would look like one for the first and one for the others.
    num_layers = {"n_layer" if "n_layer" in SHAPES[family] else "num_hidden_layers": 4}
    directory = str(tiny_model(tmp_path, family, **num_layers))
    model, packs = trained_model(directory, 0.05)
    plain, _ = trained_model(directory, 0.05)
    graphs = CompileCounterWithBackend("aot_eager" if family == "llama" else "eager")
    compile_layers(model, backend=graphs)
    num_graphs = []
    for seed, number in ((1, 3), (2, 4)):
        batch = (pack if packs else pad)(rows(seed, number))
        found, expected = loss_and_gradients(model, batch), loss_and_gradients(plain, batch)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        num_graphs.append(graphs.frame_count)
    if family in WITH_ATTENTION_DROPOUT:
        assert num_graphs[0] == num_graphs[1]
        return
    assert dict(counters["graph_break"]) == {}
    # The first layer's input needs no gradient, the others' does: two graphs, and no other for other lengths.
    assert num_graphs == [2, 2]


def test_in_eval_mode_layers_run_as_written(tmp_path):
    model, _ = trained_model(str(tiny_model(tmp_path, "llama")), 0.0)
    graphs = CompileCounterWithBackend("eager")
    compile_layers(model, backend=graphs)
    with accelerator.uncompiled(model), torch.no_grad():
        forward_trained(model.eval(), pack(rows(0, 3)))
    assert graphs.frame_count == 0
    forward_trained(model.train(), pack(rows(0, 3)))
    assert graphs.frame_count == 2
    assert isinstance(accelerator.uncompiled(torch.nn.Linear(1, 1)), nullcontext)
