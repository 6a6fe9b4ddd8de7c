"""Causal attention inside each example of a packed row, and the proof that a model supports it.

A packed row [1, T] holds whole examples back to back. A square mask over the row would spend most of the
attention on pairs that it then hides; this attention runs each example by itself instead. It is registered
with transformers' AttentionInterface and finds the boundaries in `cu_seq_lens_q`, the keyword that
transformers' flash attention uses for the same purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PACKED_CAUSAL = "snake_dist_packed_causal"


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switch `model` to packed attention and return True, if packing is exact for it; else leave it as it was.

    Proven on the loaded model, not looked up by name: in a packed row an example's logits must not depend on
    the tokens of the example before it, and must be those it has alone under the model's own attention. ALiBi
    models, say, are trained with padding instead.
    """
    import torch
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    if not getattr(model, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(PACKED_CAUSAL, packed_causal_attention)
    AttentionMaskInterface.register(PACKED_CAUSAL, _no_mask)

    vocabulary = model.config.get_text_config().vocab_size
    before, other, example = (torch.arange(start, end) % vocabulary for start, end in ((7, 12), (40, 45), (12, 21)))
    own_attention = model.config._attn_implementation
    with torch.inference_mode():
        alone = model(example[None], use_cache=False).logits[0].float()
        model.set_attn_implementation(PACKED_CAUSAL)
        packed, packed_otherwise = (_last_of_row(model, [first, example], 0) for first in (before, other))
        shared, shared_otherwise = (
            _last_of_row(model, [example[:4], first, example[4:]], 4) for first in (before, other)
        )
    # Same shapes, same kernels: without a leak not even the last bit may differ. Against the model's own attention
    # there is rounding: in bf16, through 30 layers, up to a tenth of the logits' spread.
    exact = (
        torch.equal(packed, packed_otherwise)
        and torch.equal(shared, shared_otherwise)
        and (packed - alone).std() < 0.2 * alone.std()
        and (shared - alone[4:]).std() < 0.2 * alone.std()
    )
    if not exact:
        model.set_attn_implementation(own_attention)
    return bool(exact)


@contextmanager
def unpacked_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` attends as it does when it is loaded: to a cache and under masks, as generation needs."""
    if model.config._attn_implementation != PACKED_CAUSAL:
        yield
        return
    model.set_attn_implementation(None)  # transformers' own choice for the model
    try:
        yield
    finally:
        model.set_attn_implementation(PACKED_CAUSAL)


def _last_of_row(model: PreTrainedModel, segments: list[torch.Tensor], shared: int) -> torch.Tensor:
    """fp32 logits [T, V] of the last segment; the first is a prefix of all if it is `shared` tokens long."""
    import torch

    lengths = [len(segment) for segment in segments]
    starts = [0, *[shared] * (len(segments) - 1)]
    logits = model(
        torch.cat(segments)[None],
        position_ids=torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])[None],
        cu_seq_lens_q=torch.tensor([0, *lengths]).cumsum(0),
        shared_prefix_length=shared,
        use_cache=False,
    ).logits
    return logits[0, -lengths[-1] :].float()


def packed_causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - always None, see _no_mask
    *,
    cu_seq_lens_q: torch.Tensor,
    shared_prefix_length: int = 0,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [1, H, T, D] on key and value [1, Hkv, T, D], causal within each segment.

    `cu_seq_lens_q` holds the boundaries 0 = b0 < b1 < ... = T. With a shared prefix the first segment has
    `shared_prefix_length` tokens, and the later ones see it before their own. Returns ([1, T, H, D], None).
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    boundaries = cu_seq_lens_q.tolist()
    if runs_on_cpu(query) and not dropout and sliding_window is None:
        from snake_dist.model.cpu_attention import PackedCausalAttention

        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        packed = PackedCausalAttention.apply(query[0], key[0], value[0], boundaries, shared_prefix_length, scale)
        return packed.transpose(0, 1)[None].contiguous(), None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    outputs = []
    for start, end in pairwise(boundaries):
        own_query, own_key, own_value = (tensor[:, :, start:end] for tensor in (query, key, value))
        prefix = shared_prefix_length if start else 0
        if prefix:
            own_key, own_value = (
                torch.cat([tensor[:, :, :prefix], tensor[:, :, start:end]], dim=2) for tensor in (key, value)
            )
        length = end - start + prefix
        window = sliding_window if sliding_window is not None and sliding_window < length else length
        # Fused kernels take no mask; without one they align query and key at the first, not at the last token.
        mask = None if window == length and not prefix else _visible(own_query, length, window)
        outputs.append(
            scaled_dot_product_attention(
                own_query,
                own_key,
                own_value,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout if module.training else 0.0,
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def runs_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _visible(query: torch.Tensor, num_keys: int, window: int) -> torch.Tensor:
    """bool [L, keys]: which keys the last L positions may see: itself and what comes before, `window` in all."""
    import torch

    num_before = num_keys - query.shape[2]
    visible = query.new_ones(query.shape[2], num_keys, dtype=torch.bool)
    return visible.tril(num_before).triu(num_before + 1 - window)


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks would be wasted: the boundaries say everything."""
