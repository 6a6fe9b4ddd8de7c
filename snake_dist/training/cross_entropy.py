"""Cross-entropy without a second copy of the logits: the gradient overwrites them."""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Number of logits in fp32 at a time: 2 MiB, a core's second-level cache; 256 MiB of an accelerator's memory."""


class CrossEntropySum(torch.autograd.Function):
    """-sum_k log softmax(logits_KV[k])[labels_K[k]] in fp32, for logits of any floating dtype.

    `logits_KV` is overwritten with softmax - one-hot, its gradient, if it needs one.
    """

    @staticmethod
    def forward(ctx: Any, logits_KV: torch.Tensor, labels_K: torch.Tensor) -> torch.Tensor:
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
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(grads[0].to(gradient.dtype)), None
