"""Packed attention is the same by every kernel: values and gradients."""

from __future__ import annotations

import pytest
import torch

from snake_dist import accelerator
from snake_dist.model import attention, packing_proof
from snake_dist.segments import Segments
from tests.support.varlen import varlen_in_pytorch


def with_gradients(segments, window):
    torch.manual_seed(0)
    tensors = [torch.randn(1, heads, segments.boundaries[-1], 8, requires_grad=True) for heads in (6, 2, 2)]
    found, _ = attention.packed_causal_attention(
        torch.nn.Module(), *tensors, None, segments=segments, sliding_window=window
    )
    return found, *torch.autograd.grad(found, tensors, torch.randn(found.shape))


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize(("boundaries", "prefix"), [([0, 7, 20, 33, 41], 7), ([0, 9, 14, 30], 0), ([0, 3], 0)])
def test_every_kernel_computes_the_same(monkeypatch, boundaries, prefix, window):
    segments = Segments.of(boundaries, prefix)
    own = with_gradients(segments, window)
    monkeypatch.setattr(accelerator, "runs_on_cpu", lambda _query: False)
    one_by_one = with_gradients(segments, window)
    monkeypatch.setattr(attention, "has_varlen", lambda _query: True)
    monkeypatch.setattr(attention, "varlen", varlen_in_pytorch)
    varlen = with_gradients(segments, window)
    for a, b, c in zip(own, one_by_one, varlen, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert torch.allclose(a, c, atol=1e-5)


@pytest.mark.parametrize("option", [{"softcap": 30.0}, {"s_aux": torch.zeros(6)}])
def test_scores_that_it_does_not_know_are_refused(option):
    query, key = torch.randn(1, 6, 9, 8), torch.randn(1, 2, 9, 8)
    with pytest.raises(NotImplementedError):
        attention.packed_causal_attention(
            torch.nn.Module(), query, key, key, None, segments=Segments.of([0, 9]), **option
        )


def test_the_proof_runs_where_the_model_is():
    """On "meta" no proof ends, but a tensor of another device would be an error before that."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        packing_proof.use_packed_attention(model)
