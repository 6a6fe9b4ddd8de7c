"""MFU: the FLOP of a micro-batch against a count of its operations, the table of peaks, what a CPU says."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from snake_dist.data.packing import Example, pack
from snake_dist.model.adapters import AdapterConfig, attach
from snake_dist.model.base import load_base
from snake_dist.training.loss import forward_trained
from snake_dist.training.utilization import StepCost, UsageMeter, _num_pairs, peak_flops
from tests.support.tiny_models import tiny_llama, tiny_model


def examples(lengths: list[int], shared: int) -> list[Example]:
    draw = np.random.default_rng(0)
    prefix = draw.integers(0, 200, size=shared)
    return [
        Example(np.concatenate([prefix, [200 + i], draw.integers(0, 200, size=n - shared - 1)]), shared + 3)
        for i, n in enumerate(lengths)
    ]


def test_flop_of_a_packed_row_are_those_of_its_products(tmp_path):
    model = attach(load_base(str(tiny_llama(tmp_path)), "float32"), AdapterConfig(rank=4, dropout=0.0))
    batch = pack(examples([40, 50, 64], 0))
    cost = StepCost(model)
    with FlopCounterMode(display=False) as counter:
        logits, _, _ = forward_trained(model, batch)
        logits.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(number for operation, number in counts.items() if operation.__name__.endswith("mm"))
    # The embeddings need no gradient: neither do the inputs of the first layer's q, k, v and of their A matrices.
    first = [(32 + 16 + 16) * 32, 3 * 4 * 32]
    pairs = sum(n * (n + 1) // 2 for n in (40, 50, 64))
    assert products == cost.flops(batch) - 2 * pairs * cost.pair_flops - 2 * 154 * sum(first)
    assert cost.pair_flops == 12 * 32


def test_a_shared_prefix_counts_once_and_a_window_limits_the_pairs(tmp_path):
    model = attach(load_base(str(tiny_llama(tmp_path)), "float32"), AdapterConfig(rank=4, dropout=0.0))
    cost = StepCost(model)
    shared = pack(examples([60, 60], 30))
    assert shared.segments is not None
    assert shared.segments.prefix == 30
    positions, trained = 30 + 30 + 30, len(shared.labels_K)
    pairs = 30 * 31 // 2 + 2 * (30 * 30 + 30 * 31 // 2)
    expected = positions * cost.layer_flops + trained * cost.head_flops + 2 * pairs * cost.pair_flops
    assert cost.flops(shared) == expected
    assert _num_pairs(5, 0, None) == 15
    assert _num_pairs(5, 3, None) == 4 + 5 + 6 + 7 + 8
    assert _num_pairs(5, 3, 6) == 4 + 5 + 6 + 6 + 6
    assert _num_pairs(5, 3, 8) == 4 + 5 + 6 + 7 + 8


def test_of_experts_the_active_share_counts():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config).requires_grad_(False)
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    others = sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.ndim > 1 and ".experts." not in name and "embed" not in name and "lm_head" not in name
    )
    assert StepCost(model).layer_flops == 4 * (experts / 2 + others)


def test_the_peak_is_the_cards_or_unknown():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA A10G") is None
    assert peak_flops("NVIDIA GeForce RTX 4090") == 165.2e12


def test_a_cpu_logs_neither(tmp_path):
    model = load_base(str(tiny_model(tmp_path, "llama")), "float32")
    meter = UsageMeter(model, torch.device("cpu"))
    meter.count(pack(examples([20, 20], 0)))
    assert meter.metrics(1.0) == {}
