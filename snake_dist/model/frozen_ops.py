"""Operations of a frozen base with their backward passes written out: fewer passes over memory, fewer tensors kept.

None of them gives a frozen weight a gradient. `model/fast_path.py` puts them into a model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear

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
    set to 0, `kept` (of x's shape, bool) tells which were not; or they are x and None. The backward pass needs
    `dropped`, not x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        dropped: torch.Tensor,
        kept: torch.Tensor | None,
        scaling: float,
    ) -> torch.Tensor:
        output = linear(x, weight, bias)
        low_rank = linear(dropped.flatten(0, -2), lora_a)
        output.view(-1, output.shape[-1]).addmm_(low_rank, lora_b.t(), alpha=scaling)
        ctx.save_for_backward(weight, lora_a, lora_b, dropped, kept, low_rank)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, lora_a, lora_b, dropped, kept, low_rank = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        grad_low_rank = (grad @ lora_b).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if kept is None:
                grad_x.addmm_(grad_low_rank, lora_a)
            else:
                grad_x.addcmul_(grad_low_rank @ lora_a, as_factor(kept, grad_x.dtype).view_as(grad_x))
            grad_x = grad_x.view_as(dropped)
        grad_a = grad_low_rank.t() @ dropped.flatten(0, -2)
        grad_b = (grad.t() @ low_rank).mul_(ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None, None, None
