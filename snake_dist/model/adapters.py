"""Wrap a base model with LoRA or its kin, through PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from snake_dist.errors import InputError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained: the adapter, its size, where it sits."""

    adapter: Literal["lora", "rslora", "dora"] = "lora"
    """lora; rslora (scales by alpha / sqrt(rank)); dora (weight-decomposed)."""
    preset: Literal["lightweight", "balanced", "high_capacity"] = "balanced"
    """Rank, alpha and dropout: lightweight 8, 16, 0.1; balanced 16, 32, 0.05; high_capacity 32, 64, 0.02."""
    rank: int | None = None
    """Rank r of the update; overrides the preset."""
    alpha: float | None = None
    """LoRA's alpha: the update is scaled by alpha / rank; overrides the preset."""
    dropout: float | None = None
    """Dropout before the adapter, 0 <= p < 1; overrides the preset."""
    target_modules: tuple[str, ...] = ()
    """Names (or name endings) of the modules to adapt; default: every linear layer but the output head."""


@dataclass(frozen=True)
class AdapterSize:
    """Rank, alpha and dropout, preset and overrides taken together."""

    rank: int
    alpha: float
    dropout: float


PRESETS = {
    "lightweight": AdapterSize(8, 16, 0.1),
    "balanced": AdapterSize(16, 32, 0.05),
    "high_capacity": AdapterSize(32, 64, 0.02),
}


def _lora(size: AdapterSize, **options: Any) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(r=size.rank, lora_alpha=size.alpha, lora_dropout=size.dropout, task_type="CAUSAL_LM", **options)


def _rslora(size: AdapterSize, **options: Any) -> PeftConfig:
    return _lora(size, use_rslora=True, **options)


def _dora(size: AdapterSize, **options: Any) -> PeftConfig:
    return _lora(size, use_dora=True, **options)


ADAPTERS: dict[str, Callable[..., PeftConfig]] = {"lora": _lora, "rslora": _rslora, "dora": _dora}


def adapter_size(config: AdapterConfig) -> AdapterSize:
    """The preset's size with single values overridden. Raises InputError for impossible values."""
    if config.adapter not in ADAPTERS:
        raise InputError(f"--adapter {config.adapter!r}: choose from {', '.join(ADAPTERS)}")
    if config.preset not in PRESETS:
        raise InputError(f"--preset {config.preset!r}: choose from {', '.join(PRESETS)}")
    preset = PRESETS[config.preset]
    size = AdapterSize(
        rank=preset.rank if config.rank is None else config.rank,
        alpha=preset.alpha if config.alpha is None else config.alpha,
        dropout=preset.dropout if config.dropout is None else config.dropout,
    )
    if size.rank < 1:
        raise InputError(f"--rank {size.rank}: at least 1")
    if not size.alpha > 0:
        raise InputError(f"--alpha {size.alpha:g}: greater than 0")
    if not 0 <= size.dropout < 1:
        raise InputError(f"--dropout {size.dropout:g}: at least 0 and below 1")
    return size


def attach(model: PreTrainedModel, config: AdapterConfig) -> PeftModel:
    """Freeze `model` and wrap it with the adapter; only the adapter's parameters are left trainable.

    The adapter takes the base's dtype (the optimizer keeps fp32 masters): fp32 adapters on a bf16 base break
    ZeRO-3's all-gather in some DeepSpeed releases (DeepSpeed issue 8072). Raises InputError if no module
    bears a name of `target_modules`.
    """
    from peft import get_peft_model

    # "all-linear" also covers GPT-2's Conv1D and leaves the output head out, whatever the architecture.
    targets = list(config.target_modules) or "all-linear"
    peft_config = ADAPTERS[config.adapter](adapter_size(config), target_modules=targets)
    try:
        return get_peft_model(model, peft_config, autocast_adapter_dtype=False)
    except ValueError as problem:
        if "arget modules" not in str(problem):
            raise
        kinds = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if is_linear(module)}
        raise InputError(
            f"--target-modules {' '.join(config.target_modules)}: not in this model; its linear layers are "
            f"{', '.join(sorted(kinds))}"
        ) from None


def is_linear(module: Any) -> bool:
    """Whether PEFT can adapt this layer as a matrix: nn.Linear or GPT-2's transposed Conv1D."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """(trainable, all) numbers of parameters; correct before ZeRO-3 partitions them."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in model.parameters())
