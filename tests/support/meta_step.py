"""The true training step on meta tensors: every operation runs, nothing is allocated, all bytes are counted.

Stands for an accelerator: the kernels are those that PyTorch picks off the CPU, except that attention is sent to the
flash kernel, which is what CUDA takes and what "meta" would not.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from snake_dist.data.packing import Example, pack
from snake_dist.model import adapters
from snake_dist.model.attention import PACKED_CAUSAL, packed_causal_attention
from snake_dist.model.fast_path import use_fast_ops
from snake_dist.model.frozen_ops import RMSNorm
from snake_dist.training.loss import forward_trained, loss_sum


@dataclass
class Bytes(TorchDispatchMode):
    """Counts the bytes of all living tensors on "meta"; small inputs (labels, positions) may be real."""

    live: dict[int, int] = field(default_factory=dict)
    now: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.live or not tensor.is_meta:
            return
        self.live[key] = storage.nbytes()
        self.now += storage.nbytes()
        weakref.finalize(storage, self._drop, key)
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)

    def reset_peak(self) -> None:
        self.peak = self.now

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # Masks and indices stay real: how many elements they choose cannot be known from a shape.
        mixed = any(tensor.is_meta for tensor in tensors) and not all(tensor.is_meta for tensor in tensors)
        if mixed and "index" not in str(operation):
            args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        out = operation(*args, **kwargs)
        for leaf in tree_iter(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out


def flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> torch.Tensor:
    """scaled_dot_product_attention by the flash kernel, which never holds the scores."""
    assert attn_mask is None
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, scale=scale
    )[0]


def fused_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Dropout by CUDA's kernel, whose mask has one byte an element."""
    assert not inplace
    return torch.ops.aten.native_dropout(input, p, training)[0] if p and training else input


def meta_model(
    config: PretrainedConfig, adapter: adapters.AdapterConfig, dtype: torch.dtype, *, fast: bool = True
) -> Any:
    """The model with its adapter, without weights; `fast`: with this package's operations, as below ZeRO-3."""
    AttentionInterface.register(PACKED_CAUSAL, packed_causal_attention)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.set_attn_implementation(PACKED_CAUSAL)
        model = adapters.attach(model, adapter)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    if fast:
        # Norms are tried out on numbers, of which there are none here: taken for what their name says.
        with patch.object(torch, "allclose", return_value=True):
            use_fast_ops(model)
    return model.train()


def measure_step(model: Any, lengths: list[int], trained: int, *, checkpointing: bool = False) -> int:
    """Bytes that one packed training step holds at its peak, beyond the model's own.

    `trained`: trained tokens of each example.
    """
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    counted = Bytes()
    for tensor in [*model.parameters(), *model.buffers()]:
        counted.add(tensor)
    static = counted.now
    # Each starts with a token of its own: a common prefix would be computed once.
    batch = pack([Example(np.full(length, i, dtype=np.int64), length - trained) for i, length in enumerate(lengths)])
    kernels = {
        "scaled_dot_product_attention": flash_attention,
        "dropout": fused_dropout,
        # CUDA's own kernel keeps as little; on "meta" it would be taken apart.
        "rms_norm": lambda x, _shape, weight, epsilon: RMSNorm.apply(x, weight, epsilon),
    }
    with counted, patch.multiple(torch.nn.functional, **kernels):
        logits, labels, _ = forward_trained(model, batch)
        counted.reset_peak()
        loss_sum(logits, labels).backward()
    return counted.peak - static
