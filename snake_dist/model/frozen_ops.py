"""Operations of a frozen base with their backward passes written out: fewer passes over memory, fewer tensors kept.

None of them gives a frozen weight a gradient. `model/fast_path.py` puts them into a model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import gelu, linear, silu

from snake_dist import accelerator
from snake_dist.accelerator import fused
from snake_dist.model.dropout import as_factor


class RMSNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + epsilon) over the last dimension, the quotient in fp32 (Zhang and Sennrich, 2019).

    x [..., D], weight [D]. Rounded to x's dtype before and after the product with `weight`, as Llama does.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        exact = x.float()
        scales = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scales = scales.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scales)
        return (exact * scales).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scales = ctx.saved_tensors
        normed = x.float() * scales
        grad = (grads[0] * weight).float()
        # d/dx: scales * (grad - normed * mean(grad * normed))
        projection = torch.linalg.vecdot(grad, normed).div_(x.shape[-1]).unsqueeze(-1)
        return grad.sub_(normed.mul_(projection)).mul_(scales).to(x.dtype), None, None


class LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling * dropped A^T B^T, with gradients for x, A and B (Hu et al., 2021).

    x [..., K], weight [N, K], bias [N] or None, lora_a [r, K], lora_b [N, r]. `dropped` is x with some elements
    set to 0 and the others times `kept_scale`, `kept` (of x's shape, bool) tells which were not; or both are None. The
    backward pass needs `dropped`, not x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        dropped: torch.Tensor | None,
        kept: torch.Tensor | None,
        scaling: float,
        kept_scale: float,
    ) -> torch.Tensor:
        if dropped is None:
            dropped = x
        output = linear(x, weight, bias)
        low_rank = linear(dropped.flatten(0, -2), lora_a)
        output = _plus_product(output.view(-1, output.shape[-1]), low_rank, lora_b.t(), scaling).view_as(output)
        ctx.save_for_backward(weight, lora_a, lora_b, dropped, kept, low_rank)
        ctx.scaling, ctx.kept_scale = scaling, kept_scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, lora_a, lora_b, dropped, kept, low_rank = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        grad_low_rank = _scaled_product(grad, lora_b, ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if kept is None:
                grad_x = _plus_product(grad_x, grad_low_rank, lora_a)
            else:
                _add_kept(grad_x, grad_low_rank @ lora_a, kept.view_as(grad_x), ctx.kept_scale)
            grad_x = grad_x.view_as(dropped)
        grad_a = grad_low_rank.t() @ dropped.flatten(0, -2)
        grad_b = _scaled_product(grad.t(), low_rank, ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None, None, None, None


def _plus_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scaling: float = 1.0) -> torch.Tensor:
    """total + scaling * left @ right, in place where it is not compiled."""
    if torch.compiler.is_compiling():  # the kernel that reads the sum can add; a product into a sum would copy it first
        return total + left @ right * scaling
    return total.addmm_(left, right, alpha=scaling)


def _scaled_product(left: torch.Tensor, right: torch.Tensor, scaling: float) -> torch.Tensor:
    """scaling * left @ right, on an accelerator in one kernel."""
    if accelerator.runs_on_cpu(left) or torch.compiler.is_compiling():
        return (left @ right).mul_(scaling)
    return torch.addmm(left.new_empty(1, 1), left, right, beta=0, alpha=scaling)  # beta=0: the sum is not read


def _add_kept(total: torch.Tensor, part: torch.Tensor, kept: torch.Tensor, scale: float) -> None:
    """total += scale * part where `kept`."""
    if accelerator.runs_on_cpu(total):
        total.addcmul_(part, as_factor(kept, total.dtype), value=scale)
    else:
        _add_masked(total, part, kept, scale)


@fused
def _add_masked(total: torch.Tensor, part: torch.Tensor, kept: torch.Tensor, scale: float) -> None:
    """The same on an accelerator. Uncompiled, a bool mask takes PyTorch's slow path: 0.11 ms a call, not 0.04."""
    total.addcmul_(part, kept, value=scale)


@fused
def silu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's product (Shazeer, 2020)."""
    return silu(gate) * up


@fused
def gelu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """GeGLU's product with the tanh approximation, as Gemma takes it."""
    return gelu(gate, approximate="tanh") * up
