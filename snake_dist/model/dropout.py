"""Dropout for LoRA: masks shared by the layers that read the same activation, on CPUs drawn eight bytes at a time.

Measured on one core: a mask for 144,000 activations takes PyTorch 4.4 ms and this module less than 1; with
PyTorch's, masks were a fifth of a training step of SmolLM2-135M. An accelerator draws a mask and applies it in one
kernel of PyTorch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from snake_dist import accelerator
from snake_dist.model.compiled_layers import decoder_layers

LEVELS = 256
"""Dropout draws one byte per activation, so its rate is a multiple of 1 / 256."""

_ONE = {torch.bfloat16: np.uint16(0x3F80), torch.float16: np.uint16(0x3C00), torch.float32: np.uint32(0x3F800000)}
"""The bits of 1.0."""


class SharedDropout:
    """Dropout made once for neighbouring layers with the same input.

    The layers that read one activation (q, k and v; gate and up) then share its mask and its dropped copy. Masks
    are a function of PyTorch's generator, so seeds and recomputation (gradient checkpointing) work as usual.
    """

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, float, torch.Tensor] | None = None
        self._dropped: torch.Tensor | None = None

    def kept(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        """bool mask of x's shape: False for a share `rate` of its elements."""
        if self._last is not None:
            seen, seen_rate, kept = self._last
            if _is_same(seen, x) and seen_rate == rate:
                return kept
        if accelerator.runs_on_cpu(x):
            kept, self._dropped = keep_mask(x, rate), None
        else:
            self._dropped, kept = torch.native_dropout(x.detach(), true_rate(rate), True)
        self._last = x, rate, kept
        return kept

    def forget(self, *_: Any) -> None:
        """Let the activation go: at the end of each decoder layer, whose backward pass may free or recompute it."""
        self._last = self._dropped = None

    def __call__(self, x: torch.Tensor, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, without gradient, with a share `rate` of its elements set to 0; bool mask of the others).

        The others are as they were on a CPU, and scaled up by 1 / (1 - `true_rate(rate)`) on an accelerator.
        """
        kept = self.kept(x, rate)
        if self._dropped is None:
            self._dropped = x.detach() * as_factor(kept, x.dtype)
        return self._dropped, kept


class LoraDropout(torch.nn.Module):
    """Inverted dropout (Srivastava et al., JMLR 15, 2014) at `true_rate(p)`, with the masks of `masks`."""

    def __init__(self, p: float, masks: SharedDropout) -> None:
        super().__init__()
        self.p, self.masks = p, masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x with a share `true_rate(p)` of its elements set to 0 and the others scaled up; x itself in eval mode."""
        if not self.training:
            return x
        kept, scale = self.masks.kept(x, self.p), 1 / (1 - true_rate(self.p))
        if not accelerator.runs_on_cpu(x):
            return torch.ops.aten.native_dropout_backward(x, kept, scale)  # x * kept * scale in one kernel
        return x * as_factor(kept, x.dtype).mul_(scale)


def use_shared_dropout(model: torch.nn.Module) -> None:
    """Replace the torch.nn.Dropout of every LoRA layer of `model` in place.

    Whichever way a layer is computed, it then draws the same masks: by PEFT (ZeRO-3) or by `frozen_ops`.
    """
    # Inner modules first: what is outside of all decoder layers (a head) shares masks of the model's own.
    for scope in (*decoder_layers(model), model):
        masks = SharedDropout()
        scope.register_forward_hook(masks.forget)
        for module in scope.modules():
            dropouts = getattr(module, "lora_dropout", None)
            if isinstance(dropouts, torch.nn.ModuleDict):
                for name, dropout in dropouts.items():
                    if isinstance(dropout, torch.nn.Dropout):
                        dropouts[name] = LoraDropout(dropout.p, masks)


def _is_same(seen: torch.Tensor, x: torch.Tensor) -> bool:
    if seen is x or torch.compiler.is_compiling():
        return seen is x
    # DeepSpeed hands each layer a new tensor object over the same memory, which `_last` keeps from reuse.
    return seen.data_ptr() == x.data_ptr() and seen.shape == x.shape


def true_rate(rate: float) -> float:
    """The dropout rate that `keep_mask` realizes: the nearest multiple of 1 / 256 above 0."""
    return max(1, min(LEVELS - 1, round(rate * LEVELS))) / LEVELS


def keep_mask(x: torch.Tensor, rate: float) -> torch.Tensor:
    """bool of x's shape, on the CPU: False with probability `true_rate(rate)`."""
    dropped_levels = round(true_rate(rate) * LEVELS)
    # PyTorch draws a CPU mask one number at a time: 10 times slower than NumPy's eight bytes at a time.
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(1 << 62, ()))))
    words = generator.integers(1 << 64, size=-(-x.numel() // 8), dtype=np.uint64)
    drawn = words.view(np.uint8)[: x.numel()].reshape(x.shape)
    return torch.from_numpy(drawn >= dropped_levels)


def as_factor(kept: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """1 and 0 in `dtype`, made from the bits of 1.0: PyTorch's conversion of bool takes 10 times longer on a CPU."""
    if dtype not in _ONE:
        return kept.to(dtype)
    one = _ONE[dtype]
    return torch.from_numpy(np.multiply(kept.numpy(), one, dtype=one.dtype)).view(dtype)
