"""Predicted bytes against the true training step on meta tensors: forward, loss, backward; nothing is allocated."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from snake_dist.model.adapters import AdapterConfig
from snake_dist.planning.activations import step_bytes
from snake_dist.planning.model_sizes import sizes_of
from snake_dist.planning.shapes import MicroBatch, Setup
from tests.support.meta_step import measure_step, meta_model
from tests.support.tiny_models import SHAPES

LLAMAS = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
SLOW = pytest.mark.slow


def compare(
    config, adapter="lora", dtype="bfloat16", dropout=0.0, checkpointing=False, examples=2, length=512, trained=200
):
    """(measured, predicted) bytes beyond the model's own weights."""
    adapter_config = AdapterConfig(adapter=adapter, dropout=dropout)
    # Shared dropout tells activations apart by their address, of which meta tensors have none.
    fast = not dropout
    model = meta_model(config, adapter_config, getattr(torch, dtype), fast=fast)
    measured = measure_step(model, [length] * examples, trained, checkpointing=checkpointing)
    setup = Setup(0, 1, dtype, dropout=dropout, own_operations=fast, gradient_checkpointing=checkpointing)
    batch = MicroBatch(examples, length, trained / length)
    predicted = step_bytes(sizes_of(config, adapter_config), setup, batch)
    return measured, sum(predicted.values())


def llama(name: str) -> LlamaConfig:
    shared = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 8192}
    return LlamaConfig(**LLAMAS[name], **shared)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("1B", {}),
        ("1B", {"adapter": "dora", "dropout": 0.05}),
        ("1B", {"dtype": "float32", "trained": 8}),
        ("1B", {"checkpointing": True, "length": 2048, "trained": 8}),
        ("8B", {"dropout": 0.05}),
        pytest.param("8B", {"checkpointing": True, "examples": 4, "length": 1024}, marks=SLOW),
        pytest.param("70B", {"dropout": 0.05}, marks=SLOW),
        pytest.param("70B", {"checkpointing": True, "examples": 4, "length": 1024}, marks=SLOW),
    ],
)
def test_llama_shapes(name, options, record_property):
    measured, predicted = compare(llama(name), **options)
    record_property("gib", (name, options, measured / 2**30, predicted / 2**30))
    print(
        f"| {name} | {options} | {measured / 2**30:.3f} | {predicted / 2**30:.3f} | {predicted / measured - 1:+.2%} |"
    )
    assert predicted == pytest.approx(measured, rel=0.01 if not options.get("checkpointing") else 0.04)


@pytest.mark.parametrize("family", sorted(SHAPES.keys() - {"bloom", "falcon"}))
def test_other_families_within_a_tenth(family):
    """Of those that pack; ALiBi models keep all scores, and are not planned to this precision."""
    widths = {
        "hidden_size": 1024,
        "n_embd": 1024,
        "word_embed_proj_dim": 1024,
        "intermediate_size": 4096,
        "ffn_dim": 4096,
    }
    heads = {"num_attention_heads": 16, "n_head": 16, "head_dim": 64, "num_hidden_layers": 4, "n_layer": 4}
    grouped = {"num_key_value_heads": 16 if family == "phi" else 4, "sliding_window": 512}
    bigger = widths | heads | grouped
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    shape = {name: bigger.get(name, value) for name, value in SHAPES[family].items()}
    measured, predicted = compare(AutoConfig.for_model(family, vocab_size=8000, **shape, **ids))
    assert predicted == pytest.approx(measured, rel=0.1)
