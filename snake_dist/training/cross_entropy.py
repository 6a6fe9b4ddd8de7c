"""Cross-entropy without a second copy of the logits: the gradient overwrites them.

On CUDA devices in two fused kernels; elsewhere in chunks of rows, by PyTorch's own.
"""

from __future__ import annotations

from typing import Any

import torch

from snake_dist.accelerator import fused, fuses

CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Number of logits in fp32 at a time: 2 MiB, a core's second-level cache; 256 MiB of an accelerator's memory."""


class CrossEntropySum(torch.autograd.Function):
    """-sum_k log softmax(logits_KV[k])[labels_K[k]] in fp32, for logits of any floating dtype.

    `logits_KV` is overwritten with its gradient, (softmax - one-hot) times the loss's, if it needs one.
    """

    @staticmethod
    def forward(ctx: Any, logits_KV: torch.Tensor, labels_K: torch.Tensor) -> torch.Tensor:
        ctx.is_fused = fuses(logits_KV)
        if ctx.is_fused:
            logits, labels = logits_KV.detach(), labels_K[:, None]
            sizes, total = _fused_loss(logits, labels)
            ctx.save_for_backward(logits, labels, sizes)
            return total
        total = torch.zeros((), dtype=torch.float32, device=logits_KV.device)
        needs_grad = ctx.needs_input_grad[0]
        elements = CHUNK_ELEMENTS.get(logits_KV.device.type, 1 << 26)
        num_rows = max(1, elements // logits_KV.shape[1])
        overwritten = logits_KV.detach()
        for logits, labels in zip(overwritten.split(num_rows), labels_K.split(num_rows), strict=True):
            shifted = logits.float() - logits.amax(dim=-1, keepdim=True)
            chosen = shifted.gather(-1, labels[:, None])
            exponentials = shifted.exp_()
            sums = exponentials.sum(dim=-1, keepdim=True)
            total += (sums.log() - chosen).sum()
            if needs_grad:
                gradient = exponentials.div_(sums)
                gradient.scatter_add_(-1, labels[:, None], torch.full_like(sums, -1.0))
                logits.copy_(gradient)
        if needs_grad:
            ctx.save_for_backward(overwritten)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        if ctx.is_fused:
            logits, labels, sizes = ctx.saved_tensors
            _fused_gradient(logits, labels, sizes, grads[0])
            return logits, None
        (gradient,) = ctx.saved_tensors
        # The factor stays fp32: rounded to bf16 it would be wrong by up to 0.4 %, in all gradients alike.
        return gradient.mul_(grads[0]), None


@fused
def _fused_loss(logits_KV: torch.Tensor, labels_K1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(log of the sum of exponentials, fp32 [K, 1]; loss sum, fp32)."""
    exact = logits_KV.float()
    sizes = exact.logsumexp(dim=-1, keepdim=True)
    return sizes, (sizes - exact.gather(-1, labels_K1)).sum()


@fused
def _fused_gradient(
    logits_KV: torch.Tensor, labels_K1: torch.Tensor, sizes_K1: torch.Tensor, factor: torch.Tensor
) -> None:
    """Write the gradient over the logits."""
    is_label = torch.arange(logits_KV.shape[1], device=logits_KV.device) == labels_K1
    logits_KV.copy_(((logits_KV.float() - sizes_K1).exp() - is_label.float()) * factor)
