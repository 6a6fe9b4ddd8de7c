"""The proof that a loaded model's attention, and the model around it, computes a packed row exactly."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from snake_dist.model.attention import PACKED_CAUSAL, UnknownAttention, one_by_one, packed_causal_attention
from snake_dist.model.own_attention import close, in_fp32, longest_input, recorded_attention
from snake_dist.segments import Segments


def use_packed_attention(model: PreTrainedModel, device: torch.device | None = None) -> bool:
    """Switch `model` to packed attention and return True, if packing is exact for it; else leave it as it was.

    Proven on the loaded model, where it is, not looked up by name. In fp32 each layer's attention must be the model's
    own, on a packed row an example's logits must be those it has alone, and must not depend on the tokens of the
    example before it. The kernels that train, on `device` (None: where the model is) and in the model's dtype, must
    agree with fp32. ALiBi models, say, or such with a soft cap on scores, are trained with padding instead.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return False
    # Without a mask function of that name transformers makes no masks, and does not wait for the device to look
    # for boundaries in the positions.
    AttentionInterface.register(PACKED_CAUSAL, packed_causal_attention)
    own_attention = model.config._attn_implementation
    try:
        with torch.no_grad():
            is_exact = _packs_exactly(model, device or model.get_input_embeddings().weight.device)
    except UnknownAttention:
        is_exact = False
    if not is_exact:
        model.set_attn_implementation(own_attention)
    return is_exact


def knows_attention(model: PreTrainedModel) -> bool:
    """Whether packed attention knows all keywords that `model` hands it: no proof, but it needs no weights ("meta")."""
    if not getattr(model, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(PACKED_CAUSAL, packed_causal_attention)
    device, own_attention = model.get_input_embeddings().weight.device, model.config._attn_implementation
    model.set_attn_implementation(PACKED_CAUSAL)
    try:
        with torch.no_grad():
            model(torch.zeros(1, 2, dtype=torch.long, device=device), segments=Segments.of([0, 2]), use_cache=False)
    except UnknownAttention:
        return False
    finally:
        model.set_attn_implementation(own_attention)
    return True


def _packs_exactly(model: PreTrainedModel, device: torch.device) -> bool:
    """The proof. Leaves `model` with packed attention, or raises UnknownAttention."""
    config, embeddings = model.config.get_text_config(), model.get_input_embeddings().weight
    before, other, example = (
        torch.arange(start, end, device=embeddings.device) % config.vocab_size
        for start, end in ((7, 12), (40, 45), (12, 21))
    )
    with in_fp32(model):
        with recorded_attention(model) as calls:
            alone = model(example[None], use_cache=False, logits_to_keep=len(example)).logits[0]

        def packed_alone(module: torch.nn.Module, query: torch.Tensor, *args: Any, **options: Any) -> Any:
            segments = Segments.of([0, query.shape[2]]).to(query.device)
            return packed_causal_attention(module, query, *args, segments=segments, **options)

        if not calls or not all(call.replaced_by(packed_alone, longest_input(model)) for call in calls):
            return False
        model.set_attn_implementation(PACKED_CAUSAL)
        packed, packed_otherwise = (_last_of_row(model, [first, example], 0) for first in (before, other))
        shared, shared_otherwise = (
            _last_of_row(model, [example[:4], first, example[4:]], 4) for first in (before, other)
        )
    # Nothing but rounding may differ: experts take the tokens of all examples in one product, whose shape then does.
    is_apart = close(packed, packed_otherwise, 1e-5) and close(shared, shared_otherwise, 1e-5)
    is_own = close(packed, alone, 1e-4) and close(shared, alone[4:], 1e-4)
    kinds = {(call.shapes, call.options.get("scaling"), call.options.get("sliding_window")) for call in calls}
    return is_apart and is_own and all(_kernel_agrees(*kind, embeddings.dtype, device) for kind in kinds)


def _kernel_agrees(
    shapes: tuple[torch.Size, ...], scaling: float | None, window: int | None, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether the kernel that trains on `device` agrees with fp32, forward and backward, on queries of these shapes."""
    # A window is a number to a kernel, so a small one stands for all.
    window = None if window is None else min(window, 20)
    segments = Segments.of([0, 5, 30, 67, 70], 5)

    def trained(query: Any, key: Any, value: Any) -> torch.Tensor:
        module, places = torch.nn.Module(), segments.to(device)
        return packed_causal_attention(
            module, query, key, value, None, segments=places, scaling=scaling, sliding_window=window
        )[0]

    def plain(query: Any, key: Any, value: Any) -> torch.Tensor:
        return one_by_one(query, key, value, segments, scaling, 0.0, window)

    with torch.inference_mode(False), torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(1, shape[1], 70, shape[3], generator=generator).to(dtype) for shape in shapes]
        grad = torch.randn(1, 70, shapes[0][1], shapes[2][3], generator=generator).to(dtype)
        expected = _with_gradients(plain, [tensor.float() for tensor in drawn], grad.float())
        found = _with_gradients(trained, [tensor.to(device) for tensor in drawn], grad.to(device))
    tolerance = 1e-4 if dtype == torch.float32 else 2**-5
    return all(close(one.cpu().float(), other, tolerance) for one, other in zip(found, expected, strict=True))


def _with_gradients(attend: Any, inputs: list[torch.Tensor], grad: torch.Tensor) -> list[torch.Tensor]:
    inputs = [tensor.requires_grad_() for tensor in inputs]
    output = attend(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def _last_of_row(model: PreTrainedModel, segments: list[torch.Tensor], shared: int) -> torch.Tensor:
    """fp32 logits [T, V] of the last segment; the first is a prefix of all if it is `shared` tokens long."""
    lengths = [len(segment) for segment in segments]
    starts = [0, *[shared] * (len(segments) - 1)]
    positions = [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
    row, device = torch.cat(segments)[None], segments[0].device
    logits = model(
        row,
        position_ids=torch.cat(positions)[None].to(device),
        segments=Segments.of([0, *torch.tensor(lengths).cumsum(0).tolist()], shared).to(device),
        use_cache=False,
        logits_to_keep=lengths[-1],
    ).logits
    return logits[0]
