"""Wrap a base model with LoRA or its kin, through PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from snake_dist.errors import InputError, check_at_least

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AdapterConfig:
    """What is trained: the adapter, its size, where it sits."""

    adapter: Literal["lora", "qlora", "adalora", "dora", "rslora", "pissa"] = "lora"
    """lora; qlora (the base in 4 bits); adalora (moves rank to where it matters); dora (weight-decomposed);
    rslora (scales by alpha / sqrt(rank)); pissa (starts from the base's principal components)."""
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
    target_rank: int | None = None
    """adalora: average rank per module that is left at the end; default: two thirds of the rank, as in the paper."""
    init_adapter: str | None = None
    """Directory of a saved adapter to go on from: the same adapter, rank, alpha, target modules and base."""
    lora_plus_ratio: float = 1.0
    """LoRA+: the learning rate of the B matrices is so many times that of all others; combines with every adapter."""


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


def _lora(size: AdapterSize, config: AdapterConfig, num_steps: int, **options: Any) -> PeftConfig:  # noqa: ARG001
    from peft import LoraConfig

    return LoraConfig(r=size.rank, lora_alpha=size.alpha, lora_dropout=size.dropout, task_type="CAUSAL_LM", **options)


def _rslora(size: AdapterSize, config: AdapterConfig, num_steps: int, **options: Any) -> PeftConfig:
    return _lora(size, config, num_steps, use_rslora=True, **options)


def _dora(size: AdapterSize, config: AdapterConfig, num_steps: int, **options: Any) -> PeftConfig:
    return _lora(size, config, num_steps, use_dora=True, **options)


def _pissa(size: AdapterSize, config: AdapterConfig, num_steps: int, **options: Any) -> PeftConfig:
    # The randomized decomposition: the exact one takes an hour for a model of 8B parameters.
    return _lora(size, config, num_steps, init_lora_weights="pissa_niter_16", **options)


def _adalora(size: AdapterSize, config: AdapterConfig, num_steps: int, **options: Any) -> PeftConfig:
    from peft import AdaLoraConfig

    return AdaLoraConfig(
        init_r=size.rank,
        target_r=target_rank(config),
        lora_alpha=size.alpha,
        lora_dropout=size.dropout,
        task_type="CAUSAL_LM",
        **rank_schedule(num_steps),
        **options,
    )


ADAPTERS: dict[str, Callable[..., PeftConfig]] = {
    "lora": _lora,
    "qlora": _lora,
    "adalora": _adalora,
    "dora": _dora,
    "rslora": _rslora,
    "pissa": _pissa,
}

QUANTIZATION = {"qlora": "nf4"}
"""Adapter -> how its frozen base is quantized; the others' is not."""


def rank_schedule(num_steps: int) -> dict[str, int]:
    """AdaLoRA's schedule under PEFT's names, in optimizer steps: all rank for a tenth of the run, less and less
    (cubic, at most 100 decisions) until 30 % are left, which train what remains. Raises InputError below 2 steps."""
    if num_steps < 2:
        raise InputError(f"--adapter adalora: needs at least 2 steps to allocate rank, this run has {num_steps}")
    tinit, tfinal = num_steps // 10, num_steps * 3 // 10
    interval = max(1, (num_steps - tinit - tfinal) // 100)
    return {"total_step": num_steps, "tinit": tinit, "tfinal": tfinal, "deltaT": interval}


def target_rank(config: AdapterConfig) -> int:
    """AdaLoRA's final average rank. Raises InputError unless it is below the starting rank."""
    rank = adapter_size(config).rank
    target = max(1, rank * 2 // 3) if config.target_rank is None else config.target_rank
    if not 1 <= target < rank:
        raise InputError(f"--target-rank {target}: at least 1 and below --rank {rank}, from which adalora starts")
    return target


def check_adapter_config(config: AdapterConfig) -> None:
    """Raise InputError for values that are impossible or contradict each other."""
    adapter_size(config)
    if config.adapter == "adalora":
        target_rank(config)
    elif config.target_rank is not None:
        raise InputError(
            f"--target-rank {config.target_rank} contradicts --adapter {config.adapter}: only adalora moves rank"
        )
    if config.init_adapter is not None and config.adapter in ("adalora", "pissa"):
        raise InputError(
            f"--init-adapter {config.init_adapter}: what --adapter {config.adapter} saves is not what it trains: "
            "use lora, qlora, dora or rslora"
        )
    if not 0 < config.lora_plus_ratio < float("inf"):
        raise InputError(f"--lora-plus-ratio {config.lora_plus_ratio:g}: greater than 0")


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
    check_at_least(size, rank=1)
    if not size.alpha > 0:
        raise InputError(f"--alpha {size.alpha:g}: greater than 0")
    if not 0 <= size.dropout < 1:
        raise InputError(f"--dropout {size.dropout:g}: at least 0 and below 1")
    return size


def attach(model: PreTrainedModel, config: AdapterConfig, *, num_steps: int = 0) -> PeftModel:
    """Freeze `model` and wrap it with the adapter; only the adapter's parameters are left trainable.

    `num_steps`, the optimizer steps of the whole run, is for AdaLoRA's schedule alone. PiSSA takes its
    start out of the base's weights: `checkpoint.plain_lora.adapter_start` keeps what was taken.

    The adapter takes the base's dtype (the optimizer keeps fp32 masters): fp32 adapters on a bf16 base break
    ZeRO-3's all-gather in some DeepSpeed releases (DeepSpeed issue 8072). Raises InputError if no module
    bears a name of `target_modules`.
    """
    from peft import get_peft_model

    # "all-linear" also covers GPT-2's Conv1D and leaves the output head out, whatever the architecture.
    targets = list(config.target_modules) or "all-linear"
    if config.adapter == "pissa":
        _check_components(model, config)
    peft_config = ADAPTERS[config.adapter](adapter_size(config), config, num_steps, target_modules=targets)
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


def _check_components(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Raise InputError unless every matrix that is adapted has as many components as PiSSA's rank."""
    rank, head = adapter_size(config).rank, model.get_output_embeddings()
    for name, module in model.named_modules():
        is_target = name.rsplit(".", 1)[-1] in config.target_modules or (
            not config.target_modules and module is not head
        )
        if is_target and is_linear(module) and min(module.weight.shape) < rank:
            rows, columns = module.weight.shape
            raise InputError(
                f"--rank {rank}: --adapter pissa starts from that many principal components, and {name} "
                f"({rows} x {columns}) has {min(rows, columns)}"
            )


def is_linear(module: Any) -> bool:
    """Whether PEFT can adapt this layer as a matrix: nn.Linear or GPT-2's transposed Conv1D."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """(trainable, all) numbers of parameters, those behind 4-bit storage counted one by one."""
    return model.get_nb_trainable_parameters()
