"""The fast operations compute what they replace, gradients included, and leave alone what they do not know."""

from __future__ import annotations

import pytest
import torch

from snake_dist.model import fast_path
from snake_dist.model.adapters import AdapterConfig, attach
from snake_dist.model.base import load_base
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops, use_fused_ops
from tests.support.tiny_models import tiny_model

TOKENS = torch.arange(24).view(2, 12)


def adapted(directory, **adapter):
    torch.manual_seed(0)
    model = attach(load_base(str(directory), "float32"), AdapterConfig(**{"rank": 4, "dropout": 0.0} | adapter))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # 0 at the start: nothing would depend on A
                parameter.normal_()
    return model.train()


def gradients(model):
    logits = model(TOKENS, use_cache=False).logits
    logits.square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, logits.detach()


@pytest.mark.parametrize("adapter", ["lora", "rslora"])
def test_logits_and_gradients_are_pefts(llama_dir, adapter):
    expected, expected_logits = gradients(adapted(llama_dir, adapter=adapter))
    fast = adapted(llama_dir, adapter=adapter)
    assert use_fast_ops(fast) == {"rms_norm": 5, "lora_linear": 14}
    found, logits = gradients(fast)
    assert torch.allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-3 * gradient.abs().max(), name


def test_biases_are_added(tmp_path):
    directory = tiny_model(tmp_path, "qwen2")
    expected, expected_logits = gradients(adapted(directory))
    fast = adapted(directory)
    assert use_fast_ops(fast)["lora_linear"] == 14
    found, logits = gradients(fast)
    assert torch.allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-3 * gradient.abs().max(), name


def test_dropout_keeps_the_expected_output_and_is_off_in_evaluation(llama_dir):
    plain = adapted(llama_dir)
    use_fast_ops(plain)
    dropping = adapted(llama_dir, dropout=0.5)
    assert use_fast_ops(dropping)["lora_linear"] == 0  # PyTorch's own dropout draws other masks
    use_shared_dropout(dropping)
    assert use_fast_ops(dropping)["lora_linear"] == 14
    layers = [
        dict(model.named_modules())["base_model.model.model.layers.0.mlp.down_proj"] for model in (plain, dropping)
    ]
    x = torch.randn(1, 3, 64, requires_grad=True)
    expected, x_gradient = layers[0](x), torch.autograd.grad(layers[0](x).sum(), x)[0]
    outputs, x_gradients = [], []
    for seed in range(2000):
        torch.manual_seed(seed)
        outputs.append(layers[1](x.clone()))  # a new tensor: a new mask
        x_gradients.append(torch.autograd.grad(outputs[-1].sum(), x)[0])
        outputs[-1] = outputs[-1].detach()
    for values, mean in ((torch.stack(outputs), expected), (torch.stack(x_gradients), x_gradient)):
        assert values.std(dim=0).min() > 0
        assert ((values.mean(dim=0) - mean).abs() < 5 * values.std(dim=0) / len(values) ** 0.5 + 1e-5).all()
    with torch.no_grad():
        assert torch.equal(layers[1].eval()(x), layers[0].eval()(x))


def test_masks_are_the_same_as_in_pefts_own_layers(llama_dir):
    """So a run may go from ZeRO-3, which computes LoRA by PEFT, to another stage and back."""
    slow, fast = (adapted(llama_dir, dropout=0.5) for _ in range(2))
    for model in (slow, fast):
        use_shared_dropout(model)
    use_fast_ops(fast)
    torch.manual_seed(1)
    expected, expected_logits = gradients(slow)
    torch.manual_seed(1)
    found, logits = gradients(fast)
    assert torch.allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-3 * gradient.abs().max(), name


def test_other_adapters_and_norms_are_left_alone(llama_dir, tmp_path):
    assert use_fast_ops(adapted(llama_dir, adapter="dora"))["lora_linear"] == 0
    # Gemma multiplies by 1 + weight.
    assert use_fast_ops(adapted(tiny_model(tmp_path, "gemma")))["rms_norm"] == 0


def test_a_disabled_adapter_is_the_base(llama_dir):
    model = adapted(llama_dir).eval()
    use_fast_ops(model)
    base = load_base(str(llama_dir), "float32")
    with torch.no_grad(), model.disable_adapter():
        assert torch.allclose(model(TOKENS).logits, base(TOKENS).logits, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "phi"])
def test_fused_gates_and_rotations_compute_what_they_replace(tmp_path, monkeypatch, family):
    """What an accelerator runs, uncompiled here; Phi's MLP has no gate."""
    import importlib

    scope = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    monkeypatch.setattr(scope, "apply_rotary_pos_emb", scope.apply_rotary_pos_emb)  # put back at the end
    directory = tiny_model(tmp_path, family)
    expected, expected_logits = gradients(adapted(directory))
    model = adapted(directory)
    monkeypatch.setattr(fast_path, "fuses", lambda _tensor: True)
    assert use_fused_ops(model) == (0 if family == "phi" else 2)
    assert hasattr(scope.apply_rotary_pos_emb, "__wrapped__")
    found, logits = gradients(model)
    assert torch.allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-3 * gradient.abs().max(), name
    assert use_fused_ops(model) == (0 if family == "phi" else 2)  # and again: nothing is wrapped twice
    assert not hasattr(scope.apply_rotary_pos_emb.__wrapped__, "__wrapped__")


def test_a_rotation_of_another_kind_is_not_given_to_the_kernel():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotates_halves

    def rotates_pairs(query, key, cos, sin):
        turned = [torch.stack([-t[..., 1::2], t[..., ::2]], dim=-1).flatten(-2) for t in (query, key)]
        return tuple(t * cos[:, None] + other * sin[:, None] for t, other in zip((query, key), turned, strict=True))

    device = torch.device("cpu")
    assert fast_path._rotates_alike(rotates_halves, rotates_halves, device)
    assert not fast_path._rotates_alike(rotates_halves, rotates_pairs, device)
    assert not fast_path._rotates_alike(rotates_halves, lambda query: query, device)
