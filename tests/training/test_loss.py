"""The loss: a sum over trained tokens, the same however examples are laid out; no second copy of the logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from snake_dist import accelerator
from snake_dist.data.packing import SHORTEST_SHARED_PREFIX, Example, pack, shared_prefix_length
from snake_dist.model.adapters import AdapterConfig, attach
from snake_dist.model.base import load_base
from snake_dist.model.packing_proof import use_packed_attention
from snake_dist.training import cross_entropy as kernel
from snake_dist.training.loss import forward_trained, loss_sum
from tests.support.varlen import varlen_in_pytorch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_elements", [1, 7 * 100, 1 << 20])
def test_loss_and_gradient_are_pytorchs(monkeypatch, dtype, chunk_elements):
    monkeypatch.setitem(kernel.CHUNK_ELEMENTS, "cpu", chunk_elements)
    torch.manual_seed(0)
    logits = (torch.randn(20, 100) * 5).to(dtype).requires_grad_()
    labels = torch.randint(100, (20,))
    expected = cross_entropy(logits.float(), labels, reduction="sum")
    (3 * expected).backward()

    copy = logits.detach().clone().requires_grad_()
    actual = loss_sum(copy * 1, labels)  # overwritten: not the leaf itself
    (3 * actual).backward()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert (copy.grad.float() - logits.grad.float()).abs().max() < tolerance * 3


def test_without_gradients_the_logits_stay():
    logits, labels = torch.randn(4, 10), torch.arange(4)
    before = logits.clone()
    loss_sum(logits, labels)
    assert torch.equal(logits, before)


def prompts_with_a_prefix(shared: int, num_examples: int = 3) -> list[Example]:
    draw = np.random.default_rng(0)
    prefix = draw.integers(0, 200, size=shared)
    rest = [np.concatenate([[200 + i], draw.integers(0, 200, size=9 + 5 * i)]) for i in range(num_examples)]
    return [Example(np.concatenate([prefix, own]), num_prompt_tokens=shared + 4) for own in rest]


def test_the_prefix_ends_before_the_last_token_of_any_prompt():
    assert shared_prefix_length(prompts_with_a_prefix(40)) == 40
    assert shared_prefix_length(prompts_with_a_prefix(40, num_examples=1)) == 0
    assert shared_prefix_length(prompts_with_a_prefix(SHORTEST_SHARED_PREFIX - 1)) == 0
    same = np.arange(60)
    assert shared_prefix_length([Example(same, 50), Example(same, 30)]) == 29
    assert shared_prefix_length([Example(same, 0), Example(same, 30)]) == 0


@pytest.mark.parametrize("attention", ["own", "pytorch", "varlen"])
def test_a_shared_prefix_changes_neither_loss_nor_gradients(llama_dir, monkeypatch, attention):
    examples = prompts_with_a_prefix(40)
    torch.manual_seed(0)
    model = load_base(str(llama_dir), "float32")
    if attention != "own":  # the paths of accelerators
        from snake_dist.model import attention as module

        monkeypatch.setattr(accelerator, "runs_on_cpu", lambda _query: False)
        monkeypatch.setattr(module, "has_varlen", lambda _query: attention == "varlen")
        monkeypatch.setattr(module, "varlen", varlen_in_pytorch)
    assert use_packed_attention(model)
    model = attach(model, AdapterConfig(rank=4, dropout=0.0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()

    def gradients(batches):
        model.zero_grad()
        total, rows = 0.0, []
        for batch in batches:
            logits_KV, labels_K, rows_K = forward_trained(model, batch)
            loss = loss_sum(logits_KV, labels_K)
            loss.backward()
            total += loss.item()
            rows += rows_K.tolist()
        return total, rows, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    alone, _, expected = gradients([pack([example]) for example in examples])
    packed = pack(examples)
    assert packed.segments.prefix == 40
    assert packed.input_ids_BT.shape[1] == 40 + sum(len(example.input_ids) - 40 for example in examples)
    together, rows, actual = gradients([packed])
    assert rows == [i for i, example in enumerate(examples) for _ in range(example.num_loss_tokens)]
    assert together == pytest.approx(alone, rel=1e-5)
    for name, gradient in expected.items():
        assert (actual[name] - gradient).abs().max() < 1e-4 * gradient.abs().max(), name
