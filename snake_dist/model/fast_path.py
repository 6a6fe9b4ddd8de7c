"""Put the fast operations of `frozen_ops` into a PEFT model, where they compute what they replace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from snake_dist.model.dropout import LoraDropout, true_rate
from snake_dist.model.frozen_ops import LoraLinear, RMSNorm

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def use_fast_ops(model: PeftModel) -> dict[str, int]:
    """Replace the forward pass of RMSNorm and plain LoRA layers of `model` in place; how many of each.

    Modules keep their parameters, names and hooks. What is not known to be the same is left as it is: norms that
    compute something else, quantized bases, DoRA, layers with several adapters, dropout of another kind than
    `use_shared_dropout` puts there.
    """
    from peft.tuners.lora import Linear as LoraLayer

    counts = {"rms_norm": 0, "lora_linear": 0}
    for module in model.modules():
        if _is_rms_norm(module):
            module.forward = partial(_rms_norm, module)
            counts["rms_norm"] += 1
        elif isinstance(module, LoraLayer) and _is_plain_lora(module):
            module.forward = partial(_lora_linear, module, module.forward)
            counts["lora_linear"] += 1
    return counts


def _is_rms_norm(module: torch.nn.Module) -> bool:
    """Whether the module computes what `RMSNorm` does: tried out on a random input."""
    import torch

    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or not hasattr(module, "variance_epsilon"):
        return False
    if weight.requires_grad:
        return False
    x = torch.linspace(-2, 3, 4 * weight.numel(), dtype=weight.dtype, device=weight.device).view(1, 4, -1)
    with torch.no_grad():
        return torch.allclose(module(x).float(), _rms_norm(module, x).float(), rtol=1e-2, atol=1e-5)


def _rms_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return RMSNorm.apply(hidden_states, module.weight, module.variance_epsilon)


def _is_plain_lora(layer: Any) -> bool:
    import torch

    base = layer.get_base_layer()
    return (
        type(base) is torch.nn.Linear
        and layer.active_adapters == ["default"]
        and not layer.merged
        and not layer.lora_variant
        and not layer.lora_bias["default"]
        and isinstance(layer.lora_dropout["default"], (torch.nn.Identity, LoraDropout))
        and base.weight.dtype == layer.lora_A["default"].weight.dtype
    )


def _lora_linear(layer: Any, own_forward: Callable[..., torch.Tensor], x: torch.Tensor, **options: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged or options:
        return own_forward(x, **options)
    base, scaling = layer.get_base_layer(), layer.scaling["default"]
    dropout = layer.lora_dropout["default"]
    dropped, kept = x, None
    if layer.training and isinstance(dropout, LoraDropout):
        dropped, kept = dropout.masks(x, dropout.p)
        scaling /= 1 - true_rate(dropout.p)
    lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return LoraLinear.apply(x, base.weight, base.bias, lora_a, lora_b, dropped, kept, scaling)
