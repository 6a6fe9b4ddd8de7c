"""Causal attention inside each example of a packed row, and the proof that a model supports it.

A packed row [1, T] holds whole examples back to back. A square mask over the row would spend most of the
attention on pairs that it then hides; this attention runs each example by itself instead. It is registered
with transformers' AttentionInterface and finds the boundaries in `cu_seq_lens_q`, the keyword that
transformers' flash attention uses for the same purpose.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PACKED_CAUSAL = "snake_dist_packed_causal"


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switch `model` to packed attention and return True, if packing is exact for it; else leave it as it was.

    Proven on the loaded model, not looked up by name: two short examples must give the same logits packed
    as alone under the model's own attention. ALiBi models, say, fail this and are trained with padding.
    """
    import torch
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    if not getattr(model, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(PACKED_CAUSAL, packed_causal_attention)
    AttentionMaskInterface.register(PACKED_CAUSAL, _no_mask)

    lengths = (5, 9)
    tokens_T = torch.arange(7, 7 + sum(lengths)) % model.config.get_text_config().vocab_size
    own_attention = model.config._attn_implementation
    with torch.inference_mode():
        alone = [model(part[None], use_cache=False).logits[0] for part in tokens_T.split(lengths)]
        model.set_attn_implementation(PACKED_CAUSAL)
        positions_T = torch.cat([torch.arange(length) for length in lengths])
        packed = model(
            tokens_T[None],
            position_ids=positions_T[None],
            cu_seq_lens_q=torch.tensor([0, lengths[0], sum(lengths)]),
            use_cache=False,
        ).logits[0]
    expected = torch.cat(alone).float()
    # bf16 rounding through 30 layers stays below 5 % of the logits' spread; a leak is of the order of it.
    exact = (packed.float() - expected).abs().max() <= 0.1 * expected.std()
    if not exact:
        model.set_attn_implementation(own_attention)
    return bool(exact)


def packed_causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - always None, see _no_mask
    *,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [1, H, T, D] on key and value [1, Hkv, T, D], causal within each example.

    `cu_seq_lens_q` holds the boundaries 0 = b0 < b1 < ... = T. Returns ([1, T, H, D], None).
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    boundaries = cu_seq_lens_q.tolist()
    outputs = []
    for start, end in pairwise(boundaries):
        window = sliding_window if sliding_window is not None and sliding_window < end - start else None
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=_window_mask(end - start, window, query) if window else None,
                is_causal=window is None,
                dropout_p=dropout if module.training else 0.0,
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _window_mask(length: int, window: int, like: torch.Tensor) -> torch.Tensor:
    """True where a query may see a key: at most `window` positions back, itself included."""
    import torch

    square = torch.ones(length, length, dtype=torch.bool, device=like.device)
    return square.tril().triu(1 - window)


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks would be wasted: the boundaries say everything."""
