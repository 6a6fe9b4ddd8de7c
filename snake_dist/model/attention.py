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

SHORT_ON_CPU = 256
"""Examples of up to so many tokens are attended to by plain products on a CPU: in a bf16 training step PyTorch's
fused kernel took 4.5 ms for 62 tokens and 9.5 ms for 120 (9 heads, forward and backward), they 1.7 and 3.2."""


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
        packed, packed_otherwise = (_second_of_pair(model, first, example).float() for first in (before, other))
    # Same shapes, same kernels: without a leak not even the last bit may differ. Against the model's own attention
    # there is rounding: in bf16, through 30 layers, up to a tenth of the logits' spread.
    exact = torch.equal(packed, packed_otherwise) and (packed - alone).std() < 0.2 * alone.std()
    if not exact:
        model.set_attn_implementation(own_attention)
    return bool(exact)


def _second_of_pair(model: PreTrainedModel, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of `second`, packed behind `first`."""
    import torch

    lengths = (len(first), len(second))
    logits = model(
        torch.cat([first, second])[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        cu_seq_lens_q=torch.tensor([0, lengths[0], sum(lengths)]),
        use_cache=False,
    ).logits
    return logits[0, lengths[0] :]


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

    outputs = []
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        length = end - start
        window = sliding_window if sliding_window is not None and sliding_window < length else None
        attend = _short_attention if query.device.type == "cpu" and length <= SHORT_ON_CPU else _long_attention
        own_query, own_key, own_value = (tensor[:, :, start:end] for tensor in (query, key, value))
        outputs.append(attend(own_query, own_key, own_value, window, scaling, dropout if module.training else 0.0))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _long_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """PyTorch's fused attention of one example: [1, H, L, D]."""
    from torch.nn.functional import scaled_dot_product_attention

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    mask = None if window is None else _visible(query, window)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scaling
    )


def _short_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """The same written out: softmax(Q K^T scaling) V, in fp32 between the products; heads that share keys at once."""
    from torch.nn.functional import dropout as drop

    _, num_heads, length, size = query.shape
    num_groups = key.shape[1]
    # In fp32: scores that bf16 rounds before the softmax move SmolLM2's logits by a sixth of their spread.
    grouped = query.float().reshape(num_groups, -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = (grouped @ key[0].float().transpose(1, 2)).view(num_groups, -1, length, length)
    weights = scores.masked_fill(~_visible(query, window or length), float("-inf")).softmax(dim=-1)
    weights = drop(weights, dropout).to(value.dtype)
    return (weights.view(num_groups, -1, length) @ value[0]).view(1, num_heads, length, size)


def _visible(query: torch.Tensor, window: int) -> torch.Tensor:
    """bool [L, L]: which keys a query may see: itself and what comes before, `window` positions in all."""
    import torch

    length = query.shape[2]
    return query.new_ones(length, length, dtype=torch.bool).tril().triu(1 - window)


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks would be wasted: the boundaries say everything."""
