"""What a model hands its attention: recorded on a few tokens, and compared in fp32 with what would take its place.

A replacement is exact only if it computes everything that the model's own attention does: soft caps, sinks, biases,
windows, chunks. Some of it comes as keywords, some as masks, and some stands in the model's modules, where no keyword
names it. So keywords are known or refused, masks are followed to the model's longest input, and each call is computed
both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

TOLERANCE = 1e-4
"""Largest difference of two outputs of attention in fp32, as a share of the largest output."""
LONGEST = 1 << 17
"""Masks are followed to the model's last position, or to this one."""


@dataclass(frozen=True)
class AttentionCall:
    """One layer's call of its attention."""

    module: nn.Module
    own: Callable[..., Any]
    """The model's own attention: called as transformers' AttentionInterface says."""
    shapes: tuple[torch.Size, ...]
    """Of query [1, H, T, D], key [1, G, T, D] and value [1, G, T, Dv]."""
    mask: torch.Tensor | None
    rule: Callable[..., torch.Tensor] | None
    """Which key each query sees, as transformers' mask functions say it; None: no such function made the mask."""
    options: dict[str, Any]
    device: torch.device

    def replaced_by(self, attention: Callable[..., Any], longest: int) -> bool:
        """Whether `attention`, without a mask, computes this call up to inputs of `longest` tokens.

        It is called like the own one. Raises UnknownAttention if it does not know a keyword.
        """
        window = self.options.get("sliding_window")
        if self.rule is None or not _is_window(self.rule, window, longest, self.device):
            return False
        generator = torch.Generator().manual_seed(0)
        query, key, value = (torch.randn(shape, generator=generator).to(self.device) for shape in self.shapes)
        mask = self.mask.float() if self.mask is not None and self.mask.is_floating_point() else self.mask
        # Flat scores show sinks and missing keys, steep ones caps and keys too many.
        for steepness in (1.0, 16.0):
            given = (query * steepness, key, value)
            expected = self.own(self.module, *given, mask, **self.options)[0]
            found = attention(self.module, *given, None, **self.options)[0]
            if not close(found, expected, TOLERANCE):
                return False
        return True


def longest_input(model: PreTrainedModel) -> int:
    """Tokens of the model's longest input, as far as masks are followed."""
    return min(getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST, LONGEST)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether no element differs by more than this share of the largest one."""
    return found.shape == expected.shape and bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@lru_cache(maxsize=8)
def _is_window(rule: Callable[..., torch.Tensor], window: int | None, longest: int, device: torch.device) -> bool:
    """Whether a mask's rule says: itself and what comes before, `window` in all. On some queries and all their keys."""
    edges = {2**power for power in range(longest.bit_length())} | {longest, window or 1}
    queries = sorted({edge + step for edge in edges for step in (-1, 0, 1) if 0 <= edge + step < longest})
    own, seen = (torch.tensor(places, device=device) for places in (queries, range(longest)))
    visible = rule(0, 0, own[:, None], seen[None])
    expected = seen[None] <= own[:, None]
    if window is not None:
        expected &= seen[None] > own[:, None] - window
    return torch.equal(visible.expand_as(expected), expected)


@contextmanager
def recorded_attention(model: PreTrainedModel) -> Iterator[list[AttentionCall]]:
    """Inside, the calls of the model's own attention, which go on as they would, are in the list."""
    calls: list[AttentionCall] = []
    rules: dict[int, tuple[torch.Tensor, Callable[..., torch.Tensor]]] = {}
    found_by, own_name = AttentionInterface.get_interface, model.config._attn_implementation
    make_mask = ALL_MASK_ATTENTION_FUNCTIONS[own_name]

    def masked(*args: Any, **options: Any) -> Any:
        mask = make_mask(*args, **options | {"allow_is_causal_skip": False})
        if mask is not None:
            rules[id(mask)] = (mask, options["mask_function"])
        return mask

    def get_interface(self: AttentionInterface, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        own = found_by(self, name, default)

        def attend(module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
            without = (None, causal_mask_function if attention_mask is None else None)
            _, rule = rules.get(id(attention_mask), without)
            shapes = (query.shape, key.shape, value.shape)
            calls.append(AttentionCall(module, own, shapes, attention_mask, rule, options, query.device))
            return own(module, query, key, value, attention_mask, **options)

        return attend

    ALL_MASK_ATTENTION_FUNCTIONS[own_name] = masked
    AttentionInterface.get_interface = get_interface
    try:
        yield calls
    finally:
        AttentionInterface.get_interface = found_by
        del ALL_MASK_ATTENTION_FUNCTIONS[own_name]


@contextmanager
def in_fp32(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes in fp32. Its weights are widened a block at a time, while the block runs."""
    blocks = {block for blocks in model.modules() if isinstance(blocks, nn.ModuleList) for block in blocks}
    narrow: dict[nn.Module, list[tuple[nn.Parameter, torch.Tensor]]] = {}

    def widen(module: nn.Module, *_: Any) -> None:
        parameters = module.parameters(recurse=module in blocks)
        halves = [p for p in parameters if p.dtype in (torch.bfloat16, torch.float16) and not hasattr(p, "quant_state")]
        narrow[module] = [(parameter, parameter.data) for parameter in halves]
        for parameter, data in narrow[module]:
            parameter.data = data.float()

    def restore(module: nn.Module, *_: Any) -> None:
        for parameter, data in narrow.pop(module):
            parameter.data = data

    handles = []
    computing = [(module, module.compute_dtype) for module in model.modules() if hasattr(module, "compute_dtype")]
    for module in model.modules():
        if module in blocks or next(module.parameters(recurse=False), None) is not None:
            handles += [module.register_forward_pre_hook(widen), module.register_forward_hook(restore)]
    for module, _ in computing:  # bitsandbytes' 4-bit layers
        module.compute_dtype = torch.float32
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(narrow):
            restore(module)
        for module, dtype in computing:
            module.compute_dtype = dtype
