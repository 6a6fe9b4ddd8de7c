"""Causal attention inside each example of a packed row.

A packed row [1, T] holds whole examples back to back. A square mask over the row would spend most of the
attention on pairs that it then hides; this attention runs each example by itself instead. It is registered
with transformers' AttentionInterface and finds the examples in `segments`, a keyword that models hand through.
On CUDA devices one variable-length kernel computes a layer (`varlen_attn`); where that kernel does not apply,
PyTorch's attention runs once for each example. `packing_proof` says which models it is exact for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from snake_dist import accelerator
from snake_dist.segments import Segments

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PACKED_CAUSAL = "snake_dist_packed_causal"
HARMLESS = {"is_causal", "position_ids", "use_cache", "output_attentions", "output_router_logits", "deterministic"}
"""Keywords that change nothing once queries and keys are computed."""


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


class UnknownAttention(NotImplementedError):
    """A model asks its attention for what this package does not compute."""


def refuse_unknown(options: dict[str, Any]) -> None:
    """Raise UnknownAttention if a model hands its attention keywords that this package does not know."""
    if options.get("is_causal") is False:
        raise UnknownAttention("attention that is not causal")
    given = {name for name, value in options.items() if value is not None and value is not False}
    if unknown := sorted(given - HARMLESS):
        raise UnknownAttention(f"attention with {', '.join(unknown)}")


def packed_causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - always None
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [1, H, T, D] on key and value [1, Hkv, T, D], causal within each of the `segments`.

    Returns ([1, T, H, D], None). Raises UnknownAttention for what it does not know: soft caps, sinks,
    biases.
    """
    refuse_unknown(options)
    if segments is None:
        raise UnknownAttention("a model that does not hand its keywords through")
    dropout = dropout if module.training else 0.0
    is_square = query.shape[-1] == value.shape[-1]
    if accelerator.runs_on_cpu(query) and not dropout and sliding_window is None and is_square:
        from snake_dist.model.cpu_attention import PackedCausalAttention

        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        boundaries = list(segments.boundaries)
        packed = PackedCausalAttention.apply(query[0], key[0], value[0], boundaries, segments.prefix, scale)
        return packed.transpose(0, 1)[None].contiguous(), None
    if has_varlen(query) and not dropout and is_square:
        query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        if segments.prefix:
            from snake_dist.model.repeat_prefix import repeat_prefix

            key, value = repeat_prefix(key, segments), repeat_prefix(value, segments)
        return varlen(query, key, value, segments, scaling, sliding_window).unsqueeze(0), None
    import torch

    # A compiled layer leaves it as it is: it would be compiled for every number of segments.
    plain = torch.compiler.disable(one_by_one)
    return plain(query, key, value, segments, scaling, dropout, sliding_window), None


def has_varlen(query: torch.Tensor) -> bool:
    """Whether the variable-length flash kernel computes this attention."""
    import torch

    is_half = query.dtype in (torch.bfloat16, torch.float16)
    if not query.is_cuda or not is_half or query.shape[-1] > 256 or query.shape[-1] % 8:
        return False
    device = query.device.index
    if device not in _IS_AMPERE_OR_LATER:
        _IS_AMPERE_OR_LATER[device] = torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return _IS_AMPERE_OR_LATER[device]


_IS_AMPERE_OR_LATER: dict[int, bool] = {}
"""By CUDA device. The proof of packing asks first: a compiled layer cannot."""


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

    # PyTorch 2.11 does not ask whether heads share keys.
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
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
        **grouped,
    )


def one_by_one(
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
