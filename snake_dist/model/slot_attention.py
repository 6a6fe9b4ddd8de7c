"""Attention of many texts at once, each in a slot of a key and value cache, in one row without padding.

A forward pass takes a row [1, T]: one new token of each of the first slots, then whole prompts that begin in other
slots. Linear layers see T tokens and no padding; the attention registered here with transformers' AttentionInterface
finds each token's slot in `slots`, a keyword that models hand through. No torch.cat of a growing cache, no masks but
its own, and a slot can begin a new text while the others continue theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from snake_dist.accelerator import moved_at_once
from snake_dist.model.attention import UnknownAttention, refuse_unknown
from snake_dist.model.slot_cache import SlotCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SLOT_ATTENTION = "snake_dist_slots"
GPU_LENGTHS = 64
"""On accelerators lengths are rounded up to multiples of this: few shapes, and rows of masks that are aligned."""


@dataclass
class SlotRow:
    """What one forward pass does: which token of the row belongs where."""

    cache: SlotCache
    lengths: Sequence[int]
    """Tokens in each of the first slots, their new one not counted."""
    new_slots: Sequence[int]
    """Slots of the prompts that begin, in the order of the row."""
    new_lengths: Sequence[int]
    """Their tokens in this row."""
    start: int
    """Tokens that these slots hold already: a prefix that all prompts share."""
    device: torch.device
    new_asked: Sequence[int] | None = None
    """Logits are asked for after this many last tokens of each of these prompts; None: after the very last ones."""
    next_layer: int = field(default=0, init=False)
    _masks: dict[Any, torch.Tensor] = field(default_factory=dict, init=False)

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What kernels read, on the device by one copy.

        `positions` [T]: of each token of the row in its text. `asked` [slots continued + those of prompts begun]:
        index in the row of the tokens whose logits are asked for. `places` [T]: index of each token in a cache of all
        slots' tokens in one. Of the prompts that begin: `slots` [n], `index` in the row of each one's tokens, padded
        at their ends [n, Q], and where in it no padding is, `rows` and `columns`.
        """
        num_continued = len(self.lengths)
        counts = torch.tensor(list(self.new_lengths), dtype=torch.long)
        ends = num_continued + counts.cumsum(0)
        begun = [torch.arange(self.start, self.start + n) for n in self.new_lengths]
        positions = torch.cat([torch.tensor(list(self.lengths), dtype=torch.long), *begun])
        slots = torch.tensor(list(self.new_slots), dtype=torch.long)
        new_asked = self.new_asked or [1] * len(self.new_lengths)
        asked = [torch.arange(end - n, end) for end, n in zip(ends.tolist(), new_asked, strict=True)]
        slot_of_token = torch.cat([torch.arange(num_continued), slots.repeat_interleave(counts)])
        host = {
            "positions": positions,
            "asked": torch.cat([torch.arange(num_continued), *asked]),
            "places": slot_of_token * self.cache.capacity + positions,
        }
        if self.new_slots:
            columns = torch.arange(self.longest_begun)
            is_real = columns[None] < counts[:, None]
            index = ((ends - counts)[:, None] + columns[None]).where(is_real, torch.zeros((), dtype=torch.long))
            rows, real_columns = is_real.nonzero(as_tuple=True)
            host |= {"slots": slots, "index": index, "rows": rows, "columns": real_columns}
        return moved_at_once(host, self.device)

    @cached_property
    def longest_continued(self) -> int:
        """Tokens of the longest continued slot with its new one, or a few more."""
        return self._rounded(max(self.lengths) + 1, self.cache.capacity)

    @cached_property
    def longest_begun(self) -> int:
        """Tokens of the row that belong to its longest prompt, or a few more."""
        return self._rounded(max(self.new_lengths), self.cache.capacity - self.start)

    def _rounded(self, length: int, most: int) -> int:
        return length if self.device.type == "cpu" else min(-(-length // GPU_LENGTHS) * GPU_LENGTHS, most)

    def mask_of_continued(self, query: torch.Tensor, window: int | None) -> torch.Tensor:
        """Added to scores [slots, 1, 1, longest]: very low where a slot has no token, or one out of the window."""
        if (mask := self._masks.get(("continued", window))) is None:
            last = self.tensors["positions"][: len(self.lengths), None]
            seen = torch.arange(self.longest_continued, device=self.device)[None]
            visible = seen <= last if window is None else (seen <= last) & (seen > last - window)
            mask = self._masks["continued", window] = _additive(visible, query.dtype)[:, None, None]
        return mask

    def mask_of_begun(self, query: torch.Tensor, window: int | None) -> torch.Tensor:
        """Added to scores [Q, start + Q] of the prompts that begin: causal, within the window."""
        if (mask := self._masks.get(("begun", window))) is None:
            longest = self.longest_begun
            visible = torch.ones(longest, self.start + longest, dtype=torch.bool, device=self.device).tril(self.start)
            if window is not None:
                visible = visible.triu(self.start + 1 - window)
            mask = self._masks["begun", window] = _additive(visible, query.dtype)
        return mask


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where visible, else the lowest finite number: kernels of exp are slow where they meet infinities."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def slot_attention(
    module: torch.nn.Module,  # noqa: ARG001 - the interface's
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - always None
    *,
    slots: SlotRow | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001 - always 0 in eval mode
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [1, H, T, D], once key and value [1, G, T, D] are in their places: ([1, T, H, D], None).

    Raises UnknownAttention for what it does not know: soft caps, sinks, biases.
    """
    refuse_unknown(options)
    if slots is None:
        raise UnknownAttention("a model that does not hand its keywords through")
    key, value = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = slots.cache.layer(slots.next_layer, key)
    slots.next_layer += 1
    for cached, new in ((keys, key), (values, value)):
        cached.view(-1, *new.shape[1:]).index_copy_(0, slots.tensors["places"], new)
    query = query[0].transpose(0, 1)
    outputs = []
    if slots.lengths:
        outputs.append(_continued(query[: len(slots.lengths)], keys, values, slots, scaling, sliding_window))
    if slots.new_slots:
        outputs.append(_begun(query, keys, values, slots, scaling, sliding_window))
    return torch.cat(outputs)[None], None


def _continued(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: SlotRow,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """[S, H, D] of the slots' new tokens. Query heads that share a key head are taken for several queries."""
    num_slots, num_heads, size = query.shape
    seen, told = (cached[:num_slots, : slots.longest_continued].transpose(1, 2) for cached in (keys, values))
    grouped = query.reshape(num_slots, keys.shape[2], -1, size)
    mask = slots.mask_of_continued(query, window).expand(-1, -1, grouped.shape[2], -1)
    output = scaled_dot_product_attention(grouped, seen, told, attn_mask=mask, scale=scaling)
    return output.reshape(num_slots, num_heads, size)


def _begun(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: SlotRow,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """[T of the prompts, H, D]."""
    # Fused kernels are causal from the first token on, not from the last.
    mask = None if slots.start == 0 and window is None else slots.mask_of_begun(query, window)
    attend = _one_by_one if query.device.type == "cpu" else _padded
    return attend(query, keys, values, slots, scaling, mask)


def _one_by_one(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: SlotRow,
    scaling: float | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """`_begun` on a CPU, where a kernel costs little beside what padding makes it compute."""
    outputs = []
    first = len(slots.lengths)
    for slot, count in zip(slots.new_slots, slots.new_lengths, strict=True):
        end = slots.start + count
        asking = query[None, first : first + count].transpose(1, 2)
        seen, told = (cached[None, slot, :end].transpose(1, 2) for cached in (keys, values))
        visible = None if mask is None else mask[:count, :end]
        output = scaled_dot_product_attention(
            asking, seen, told, attn_mask=visible, is_causal=visible is None, scale=scaling, enable_gqa=True
        )
        outputs.append(output[0].transpose(0, 1))
        first += count
    return torch.cat(outputs)


def _padded(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: SlotRow,
    scaling: float | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """`_begun` on a GPU: one kernel for all prompts, padded at their ends, which no token sees."""
    which, index, rows, columns = (slots.tensors[name] for name in ("slots", "index", "rows", "columns"))
    end = slots.start + index.shape[1]
    groups = query.shape[1] // keys.shape[2]
    padded = query[index].transpose(1, 2)
    seen, told = (cached[which, :end].transpose(1, 2) for cached in (keys, values))
    if groups > 1:
        seen, told = seen.repeat_interleave(groups, dim=1), told.repeat_interleave(groups, dim=1)
    output = scaled_dot_product_attention(padded, seen, told, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return output.transpose(1, 2)[rows, columns]


def forward_slots(model: PreTrainedModel, tokens: Sequence[int], row: SlotRow) -> torch.Tensor:
    """Logits [A, V] of what comes after each of the row's `asked` tokens; `model` is inside `slot_attended`."""
    return model(
        input_ids=moved_at_once({"tokens": torch.tensor([list(tokens)])}, row.device)["tokens"],
        position_ids=row.tensors["positions"][None],
        use_cache=False,
        logits_to_keep=row.tensors["asked"],
        slots=row,
    ).logits[0]


@contextmanager
def slot_attended(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` attends through slots."""
    own_attention = model.config._attn_implementation
    AttentionInterface.register(SLOT_ATTENTION, slot_attention)
    model.set_attn_implementation(SLOT_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(own_attention)
