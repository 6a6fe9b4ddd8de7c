"""Causal attention inside each example of a packed row, and the proof that a model supports it.

A packed row [1, T] holds whole examples back to back. A square mask over the row would spend most of the
attention on pairs that it then hides; this attention runs each example by itself instead. It is registered
with transformers' AttentionInterface and finds the examples in `segments`, a keyword that models hand through.
On CUDA devices one variable-length kernel computes a layer (`varlen_attn`); where that kernel does not apply,
PyTorch's attention runs once for each example.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from snake_dist.segments import Segments

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PACKED_CAUSAL = "snake_dist_packed_causal"


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switch `model` to packed attention and return True, if packing is exact for it; else leave it as it was.

    Proven on the loaded model, where it is and by the kernel that trains, not looked up by name: in a packed row
    an example's logits must not depend on the tokens of the example before it, and must be those it has alone
    under the model's own attention. ALiBi models, say, are trained with padding instead.
    """
    import torch
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        return False
    # Without a mask function of that name transformers makes no masks, and does not wait for the device to look
    # for boundaries in the positions.
    AttentionInterface.register(PACKED_CAUSAL, packed_causal_attention)

    device, vocabulary = model.get_input_embeddings().weight.device, model.config.get_text_config().vocab_size
    before, other, example = (
        torch.arange(start, end, device=device) % vocabulary for start, end in ((7, 12), (40, 45), (12, 21))
    )
    own_attention = model.config._attn_implementation
    with torch.inference_mode():
        alone = model(example[None], use_cache=False).logits[0].float()
        model.set_attn_implementation(PACKED_CAUSAL)
        try:
            packed, packed_otherwise = (_last_of_row(model, [first, example], 0) for first in (before, other))
            shared, shared_otherwise = (
                _last_of_row(model, [example[:4], first, example[4:]], 4) for first in (before, other)
            )
        except NotImplementedError:
            model.set_attn_implementation(own_attention)
            return False
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
    positions = [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
    row, device = torch.cat(segments)[None], segments[0].device
    logits = model(
        row,
        position_ids=torch.cat(positions)[None].to(device),
        segments=Segments.of([0, *torch.tensor(lengths).cumsum(0).tolist()], shared).to(device),
        use_cache=False,
    ).logits
    return logits[0, -lengths[-1] :].float()


def packed_causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - always None
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [1, H, T, D] on key and value [1, Hkv, T, D], causal within each of the `segments`.

    Returns ([1, T, H, D], None). Raises NotImplementedError for scores with a soft cap or an attention sink.
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("packed attention with a soft cap or an attention sink")
    dropout = dropout if module.training else 0.0
    if runs_on_cpu(query) and not dropout and sliding_window is None:
        from snake_dist.model.cpu_attention import PackedCausalAttention

        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        boundaries = list(segments.boundaries)
        packed = PackedCausalAttention.apply(query[0], key[0], value[0], boundaries, segments.prefix, scale)
        return packed.transpose(0, 1)[None].contiguous(), None
    if has_varlen(query) and not dropout:
        query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        if segments.prefix:
            from snake_dist.model.repeat_prefix import RepeatPrefix

            key, value = (RepeatPrefix.apply(tensor, segments) for tensor in (key, value))
        return varlen(query, key, value, segments, scaling, sliding_window).unsqueeze(0), None
    return _one_by_one(query, key, value, segments, scaling, dropout, sliding_window), None


def runs_on_cpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def has_varlen(query: torch.Tensor) -> bool:
    """Whether the variable-length flash kernel computes this attention."""
    import torch

    is_half = query.dtype in (torch.bfloat16, torch.float16)
    if not query.is_cuda or not is_half or query.shape[-1] > 256 or query.shape[-1] % 8:
        return False
    return _is_ampere_or_later(query.device.index)


@cache
def _is_ampere_or_later(device: int) -> bool:
    import torch

    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """[T, H, D]: each segment's queries attend to its keys and values [keys, Hkv, D]; the last of both are aligned."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(
        query,
        key,
        value,
        segments.query_ends,
        segments.key_ends,
        segments.longest_query,
        segments.longest_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **_grouped_heads(),
    )


@cache
def _grouped_heads() -> dict[str, Any]:
    """What tells `varlen_attn` that key heads are shared: PyTorch 2.11 does not ask."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """[1, T, H, D] by one call of PyTorch's attention for each segment."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = [end - start for start, end in zip(segments.boundaries, segments.boundaries[1:], strict=False)]
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    outputs = []
    for i, own_query in enumerate(queries):
        own_key, own_value = keys[i], values[i]
        if i and segments.prefix:
            own_key, own_value = (torch.cat([parts[0], parts[i]], dim=2) for parts in (keys, values))
        length = own_key.shape[2]
        own_window = window if window is not None and window < length else length
        # Fused kernels take no mask; without one they align query and key at the first, not at the last token.
        mask = None if own_window == length == own_query.shape[2] else _visible(own_query, length, own_window)
        outputs.append(
            scaled_dot_product_attention(
                own_query,
                own_key,
                own_value,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _visible(query: torch.Tensor, num_keys: int, window: int) -> torch.Tensor:
    """bool [L, keys]: which keys the last L positions may see: itself and what comes before, `window` in all."""
    import torch

    num_before = num_keys - query.shape[2]
    visible = query.new_ones(query.shape[2], num_keys, dtype=torch.bool)
    return visible.tril(num_before).triu(num_before + 1 - window)
