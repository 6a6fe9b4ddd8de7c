"""A trained adapter in the form in which it is saved: plain PEFT loads it onto the original base."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Start:
    """The facts of a new adapter that are lost once an engine shards the model and trains it."""

    shapes: Shapes
    """Name (in PEFT's file format) -> shape of every tensor."""
    zeros: frozenset[str]
    """Names of the tensors that are saved as zeros as long as nothing was trained: B, AdaLoRA's E, A of embeddings."""
    initial: dict[str, torch.Tensor]
    """PiSSA's initial A and B, which were subtracted from the base; {} for other adapters."""


@dataclass(frozen=True)
class PlainAdapter:
    """The content of adapter_config.json and adapter_model.safetensors, and what a reader must find there."""

    config: PeftConfig
    tensors: dict[str, torch.Tensor]
    shapes: Shapes
    zeros: frozenset[str]
    """Of these tensors, as of `Start.zeros`, training must have changed at least one."""


def adapter_start(model: PeftModel) -> Start:
    """Return the facts of a new adapter. Call it before `deepspeed.initialize`."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if str(model.peft_config["default"].init_lora_weights).startswith("pissa"):
        # What is saved is a difference: nothing as long as nothing was trained.
        initial = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        return Start(shapes, frozenset(name for name in state if ".lora_B." in name), initial)
    return Start(shapes, frozenset(name for name, tensor in state.items() if not tensor.any()), {})


def plain_adapter(config: PeftConfig, tensors: dict[str, torch.Tensor], start: Start) -> PlainAdapter:
    """Return `tensors` (from `gather_adapter`) as they are saved: PiSSA as a plain LoRA, other adapters unchanged."""
    config = copy.deepcopy(config)
    config.inference_mode = True
    if not start.initial:
        # LoRA's rank pattern is the rank that a module has from the start; AdaLoRA's comes with its decisions.
        decided = (config.rank_pattern or {}) if hasattr(config, "target_r") else {}
        shapes = _cut_shapes(start.shapes, decided)
        return PlainAdapter(config, tensors, shapes, start.zeros)
    config.init_lora_weights = True
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    shapes = {
        name: (2 * rows, columns) if ".lora_A." in name else (rows, 2 * columns)
        for name, (rows, columns) in start.shapes.items()
    }
    return PlainAdapter(config, _difference(tensors, start.initial), shapes, start.zeros)


def _cut_shapes(shapes: Shapes, rank_pattern: dict[str, list[bool]]) -> Shapes:
    """AdaLoRA: return the shapes of the rows and columns whose singular value is not masked; PEFT saves no others."""
    cut = dict(shapes)
    for name_e, alive in rank_pattern.items():
        rank, prefix = sum(alive), f"base_model.model.{name_e.removesuffix('.lora_E')}"
        for kind in ("lora_E", "lora_A"):
            cut[f"{prefix}.{kind}"] = (rank, *shapes[f"{prefix}.{kind}"][1:])
        cut[f"{prefix}.lora_B"] = (shapes[f"{prefix}.lora_B"][0], rank)
    return cut


def _difference(trained: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a plain LoRA of twice the rank with the product B A - B0 A0: what training added to the original base.

    PEFT's own conversion stacks the four matrices. Their products nearly cancel, which in bf16 leaves noise of the size
    of the principal components; factors of the difference itself have no such noise.
    """
    import torch

    difference = {}
    for name_a in [name for name in trained if ".lora_A." in name]:
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        a, b, first_a, first_b = (
            tensor.double() for tensor in (trained[name_a], trained[name_b], initial[name_a], initial[name_b])
        )
        # B A - B0 A0 = (B - B0) A + B0 (A - A0): small terms, added before anything is rounded.
        left, right = torch.cat([b - first_b, first_b], dim=1), torch.cat([a, a - first_a], dim=0)
        left_q, left_r = torch.linalg.qr(left)
        right_q, right_r = torch.linalg.qr(right.T)
        u, values, vh = torch.linalg.svd(left_r @ right_r.T)
        root = values.sqrt()
        rank, dtype = left.shape[1], trained[name_a].dtype
        new_b, new_a = left_q @ u[:, : len(root)] * root, root[:, None] * (vh[: len(root)] @ right_q.T)
        # A matrix with a side shorter than twice the rank has fewer components: zeros fill up.
        missing = rank - len(root)
        difference[name_a] = torch.nn.functional.pad(new_a, (0, 0, 0, missing)).to(dtype).contiguous()
        difference[name_b] = torch.nn.functional.pad(new_b, (0, missing)).to(dtype).contiguous()
    return difference
