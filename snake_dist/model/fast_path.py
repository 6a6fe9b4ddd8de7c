"""Put the fast operations of `frozen_ops` into a PEFT model, where they compute what they replace."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from snake_dist import accelerator
from snake_dist.accelerator import fused, fuses
from snake_dist.model.dropout import LoraDropout, true_rate
from snake_dist.model.frozen_ops import LoraLinear, RMSNorm, gelu_gate, silu_gate

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
        kind: Any = type(module)
        if _is_rms_norm(module):
            module.__class__ = _with_forward(kind, _rms_norm)
            counts["rms_norm"] += 1
        elif isinstance(module, LoraLayer) and _is_plain_lora(module):
            module.__class__ = _with_forward(kind, _lora_linear)
            counts["lora_linear"] += 1
    return counts


@cache
def _with_forward(kind: type, forward: Callable[..., torch.Tensor]) -> type:
    """Return a subclass of `kind`, of the same name, that computes `forward(module, *inputs)`.

    Trap: a function set on each module is another object in each layer, for which PyTorch compiles each layer anew.
    """
    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


ROTATE = "apply_rotary_pos_emb"
"""The function of transformers' model files that turns queries and keys."""


def use_fused_ops(model: torch.nn.Module) -> int:
    """On a CUDA device, fuse the elementwise part of gated MLPs and of rotary embeddings of `model` in place.

    Returns how many MLPs. The projections inside stay modules of their own, with their hooks. The kernels are those of
    liger-kernel if it is installed, else compiled ones, which the host takes longer to launch.
    """
    weight = next(model.parameters())
    if not fuses(weight):
        return 0
    gates: list[Callable[..., torch.Tensor]] = [silu_gate, gelu_gate]
    rotate = None
    with suppress(ImportError, AttributeError):  # not there, or not for this Triton
        liger = import_module("liger_kernel.ops")
        gates, rotate = (
            [liger.LigerSiLUMulFunction.apply, liger.LigerGELUMulFunction.apply],
            liger.LigerRopeFunction.apply,
        )
    count = 0
    for module in model.modules():
        scope = sys.modules[type(module).__module__]
        own = getattr(scope, ROTATE, None)
        if inspect.isfunction(own) and not hasattr(own, "__wrapped__"):
            fast = fused(own)
            if rotate is not None and _rotates_alike(own, rotate, weight.device):
                fast = _with_kernel(own, rotate)
            setattr(scope, ROTATE, fast)
        if (gate := _gate_of(module, gates)) is not None:
            module.forward = partial(_gated, module, gate)
            count += 1
    return count


def _rotates_alike(own: Callable[..., Any], kernel: Callable[..., Any], device: torch.device) -> bool:
    """Whether both turn queries and keys [B, H, T, D] in the same way: tried out."""
    import torch

    query, key = (torch.linspace(-1, 1, heads * 48, device=device).view(1, heads, 3, 16) for heads in (4, 2))
    half = torch.linspace(0, 3, 24, device=device).view(1, 3, 8)
    cos, sin = (torch.cat([values, values], dim=-1) for values in (half.cos(), half.sin()))
    try:
        expected = own(query, key, cos, sin)
        found = kernel(query.clone(), key.clone(), cos, sin)
    except (TypeError, RuntimeError, ValueError):
        return False
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(expected, found, strict=True))


def _with_kernel(own: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def rotate(
        query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *args: Any, **named: Any
    ) -> Any:
        if args or named or cos.dtype != query.dtype or not fuses(query):
            return own(query, key, cos, sin, *args, **named)
        return kernel(query, key, cos, sin)

    return rotate


def _gate_of(module: torch.nn.Module, gates: list[Callable[..., torch.Tensor]]) -> Callable[..., torch.Tensor] | None:
    """Return the one of `gates` that a gated MLP computes between its projections, tried out on an input; or None."""
    import torch

    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if not all(callable(getattr(module, part, None)) for part in parts) or not hasattr(module.gate_proj, "in_features"):
        return None
    weight = next(module.parameters())
    was_training = module.training
    module.eval()  # no dropout
    try:
        x = torch.linspace(-1, 1, module.gate_proj.in_features, device=weight.device).to(weight.dtype)
        with torch.no_grad():
            expected = module(x.view(1, 1, -1))
            for gate in gates:
                found = _gated(module, inspect.unwrap(gate), x.view(1, 1, -1))
                if torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * float(expected.std())):
                    return gate
    finally:
        module.train(was_training)
    return None


def _gated(module: Any, gate: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return module.down_proj(gate(module.gate_proj(x), module.up_proj(x)))


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
    from torch.nn.functional import rms_norm

    weight, epsilon = module.weight, module.variance_epsilon
    if accelerator.runs_on_cpu(hidden_states):
        return RMSNorm.apply(hidden_states, weight, epsilon)
    return rms_norm(hidden_states, weight.shape, weight, epsilon)


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


def _lora_linear(layer: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    if layer.disable_adapters or layer.merged or options:
        from peft.tuners.lora import Linear as LoraLayer

        return LoraLayer.forward(layer, x, **options)
    base, scaling = layer.get_base_layer(), layer.scaling["default"]
    dropout = layer.lora_dropout["default"]
    dropped, kept, kept_scale = None, None, 1.0
    if layer.training and isinstance(dropout, LoraDropout):
        dropped, kept = dropout.masks(x, dropout.p)
        if accelerator.runs_on_cpu(x):
            scaling /= 1 - true_rate(dropout.p)
        else:
            kept_scale = 1 / (1 - true_rate(dropout.p))
    lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return LoraLinear.apply(x, base.weight, base.bias, lora_a, lora_b, dropped, kept, scaling, kept_scale)
