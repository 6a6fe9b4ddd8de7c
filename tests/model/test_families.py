"""Every architecture users bring: LoRA finds its layers, its batches are exact, it trains."""

from __future__ import annotations

import numpy as np
import pytest

from snake_dist.data.packing import Example, pack, pad
from snake_dist.model.adapters import AdapterConfig, attach, count_parameters
from snake_dist.model.base import ModelConfig, find_base, load_base, model_shape
from snake_dist.model.packing_proof import use_packed_attention
from snake_dist.model.targets import is_linear
from snake_dist.training.loss import forward_trained, loss_sum
from tests.support.tiny_models import SHAPES, tiny_model

# ALiBi (bloom) and attention outside transformers' interface (falcon): these are padded instead.
PADDED = {"bloom", "falcon"}


@pytest.fixture(scope="module", params=SHAPES)
def family(request, tmp_path_factory):
    return request.param, tiny_model(tmp_path_factory.mktemp(request.param), request.param)


def examples() -> list[Example]:
    draw = np.random.default_rng(0)
    return [Example(draw.integers(0, 256, size=n), num_prompt_tokens=k) for n, k in [(11, 4), (3, 2), (19, 18), (7, 0)]]


def test_batches_together_equal_examples_alone(family):
    import torch

    name, directory = family
    model = load_base(find_base(ModelConfig(str(directory))), "float32")
    with torch.inference_mode():
        alone = [forward_trained(model, pad([example])) for example in examples()]
        packs = use_packed_attention(model)
        assert packs == (name not in PADDED)
        batch = (pack if packs else pad)(examples())
        logits_KV, labels_K, rows_K = forward_trained(model, batch)
    assert labels_K.tolist() == [label for _, labels, _ in alone for label in labels.tolist()]
    assert rows_K.tolist() == [row for row, example in enumerate(examples()) for _ in range(example.num_loss_tokens)]
    expected = torch.cat([logits for logits, _, _ in alone])
    assert (logits_KV - expected).abs().max() < 1e-4 * expected.abs().max()


def test_adapter_sits_on_every_linear_layer_but_the_head_and_learns(family):
    import torch

    _, directory = family
    model = load_base(str(directory), "float32")
    linear = {name for name, module in model.named_modules() if is_linear(module)}
    head = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
    adapted = attach(model, AdapterConfig(rank=4, dropout=0.0))
    found = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in adapted.named_modules()
        if name.endswith(".lora_A.default")
    }
    assert found == linear - head
    trainable, total = count_parameters(adapted)
    assert 0 < trainable < total

    adapted.train()
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        logits_KV, labels_K, _ = forward_trained(adapted, pad(examples()))
        loss = loss_sum(logits_KV, labels_K)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.abs().max() > 0 for name, p in adapted.named_parameters() if "lora_B" in name)


def test_shape_is_known_before_weights_are_loaded(family):
    name, directory = family
    shape = model_shape(str(directory))
    assert shape.hidden_size == 32
    assert shape.max_positions == (None if name == "bloom" else 2048)
    assert shape.revision.startswith("sha256:")
