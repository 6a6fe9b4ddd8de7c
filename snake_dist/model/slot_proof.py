"""The proof that attention through slots is a loaded model's own."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel

from snake_dist.model.attention import UnknownAttention
from snake_dist.model.own_attention import close, in_fp32, longest_input, recorded_attention
from snake_dist.model.slot_attention import SlotRow, forward_slots, slot_attended, slot_attention
from snake_dist.model.slot_cache import SlotCache


def supports_slots(model: PreTrainedModel) -> bool:
    """Whether slots compute what `model` computes by itself: tried out on a few tokens, in eval mode and fp32.

    What does not hold for, say, ALiBi models, whose attention takes no function from outside, or for scores with a soft
    cap. The weights are whole: no ZeRO-3 yet.
    """
    takes = inspect.signature(model.forward).parameters
    if not getattr(model, "_supports_attention_backend", False) or "logits_to_keep" not in takes:
        return False
    try:
        with torch.no_grad(), in_fp32(model):
            return _computes_in_slots(model)
    except UnknownAttention:
        return False


def _computes_in_slots(model: PreTrainedModel) -> bool:
    device, vocabulary = model.get_input_embeddings().weight.device, model.config.get_text_config().vocab_size
    texts = [[token % vocabulary for token in range(start, start + n)] for start, n in ((7, 6), (40, 9), (21, 4))]
    with recorded_attention(model) as calls:
        alone = [model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1] for ids in texts]

    def in_one_slot(module: torch.nn.Module, query: torch.Tensor, *args: Any, **options: Any) -> Any:
        num_tokens = query.shape[2]
        row = SlotRow(SlotCache(1, num_tokens), [], [0], [num_tokens], 0, query.device)
        return slot_attention(module, query, *args, slots=row, **options)

    if not calls or not all(call.replaced_by(in_one_slot, longest_input(model)) for call in calls):
        return False
    cache = SlotCache(3, 9)
    with slot_attended(model):
        row = SlotRow(cache, [], [0, 1], [5, 8], 0, device)
        forward_slots(model, [*texts[0][:5], *texts[1][:8]], row)
        row = SlotRow(cache, [5, 8], [2], [4], 0, device)
        together = forward_slots(model, [texts[0][5], texts[1][8], *texts[2]], row)
    return all(close(one, other, 1e-3) for one, other in zip(together, alone, strict=True))
