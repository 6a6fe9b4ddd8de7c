"""LoRA and its variants: their configs, and a base model wrapped with one of them, through PEFT."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from snake_dist.errors import InputError, check_at_least
from snake_dist.model.targets import ALL_LINEAR, Targets, find_targets, is_linear, without

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AdapterConfig:
    """The adapter to train: its kind, its size, the modules it adapts."""

    adapter: Literal["lora", "qlora", "adalora", "dora", "rslora", "pissa"] = "lora"
    """lora; qlora (base model in 4 bits); adalora (moves rank to the modules that need it); dora (weight-decomposed);
    rslora (scales by alpha / sqrt(rank)); pissa (starts from the principal components of the base's weights)."""
    preset: Literal["lightweight", "balanced", "high_capacity"] = "balanced"
    """Rank, alpha and dropout: lightweight 8, 16, 0.1; balanced 16, 32, 0.05; high_capacity 32, 64, 0.02."""
    rank: int | None = None
    """Rank r of the update; overrides the preset."""
    alpha: float | None = None
    """LoRA scales its update by alpha / rank; overrides the preset."""
    dropout: float | None = None
    """Probability of dropout in front of the adapter, at least 0 and below 1; overrides the preset."""
    target_modules: tuple[str, ...] = ()
    """Adapt the modules of these names, ends of names or regular expressions, also comma-separated; all-linear, the
    default: every linear layer but the output head."""
    target_rank: int | None = None
    """adalora: reduce the mean rank of a module to this; default: two thirds of the rank, as in the paper."""
    init_adapter: str | None = None
    """Start from the adapter saved in this directory, of the same kind, rank, alpha, target modules and base model."""
    lora_plus_ratio: float = 1.0
    """LoRA+: train the B matrices with this multiple of the learning rate; combines with every adapter."""


@dataclass(frozen=True)
class AdapterSize:
    """Rank, alpha and dropout of an adapter."""

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
"""Adapter -> how its frozen base is quantized. Other adapters leave the base as it is."""


def rank_schedule(num_steps: int) -> dict[str, int]:
    """Return AdaLoRA's schedule under PEFT's names, in optimizer steps. Raises InputError below 2 steps.

    The first tenth of the run trains the full rank, the last 30 % the target rank; between them the rank falls (cubic,
    in at most 100 decisions).
    """
    if num_steps < 2:
        raise InputError(f"--adapter adalora needs at least 2 steps to allocate rank, this run has {num_steps}")
    tinit, tfinal = num_steps // 10, num_steps * 3 // 10
    interval = max(1, (num_steps - tinit - tfinal) // 100)
    return {"total_step": num_steps, "tinit": tinit, "tfinal": tfinal, "deltaT": interval}


def target_rank(config: AdapterConfig) -> int:
    """Return AdaLoRA's final mean rank. Raises InputError unless it is below the initial rank."""
    rank = adapter_size(config).rank
    target = max(1, rank * 2 // 3) if config.target_rank is None else config.target_rank
    if not 1 <= target < rank:
        raise InputError(f"--target-rank {target}: at least 1 and below --rank {rank}, adalora's initial rank")
    return target


def check_adapter_config(config: AdapterConfig) -> None:
    """Raise InputError for values that are impossible or contradict each other."""
    adapter_size(config)
    if config.adapter == "adalora":
        target_rank(config)
    elif config.target_rank is not None:
        raise InputError(
            f"--target-rank {config.target_rank} contradicts --adapter {config.adapter}: only adalora has a target rank"
        )
    if config.init_adapter is not None and config.adapter in ("adalora", "pissa"):
        raise InputError(
            f"--init-adapter {config.init_adapter}: --adapter {config.adapter} saves other tensors than it trains, so "
            "that no run can start from them: use lora, qlora, dora or rslora"
        )
    if not 0 < config.lora_plus_ratio < float("inf"):
        raise InputError(f"--lora-plus-ratio {config.lora_plus_ratio:g}: greater than 0")


def adapter_size(config: AdapterConfig) -> AdapterSize:
    """Return the preset's size with the flags that override it. Raises InputError for impossible values."""
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


def attach(
    model: PreTrainedModel, config: AdapterConfig, *, num_steps: int = 0, trained: Collection[str] | None = None
) -> PeftModel:
    """Freeze `model` and return it wrapped with the adapter, whose parameters alone are trainable.

    Only AdaLoRA's schedule needs `num_steps`, the optimizer steps of the whole run. `trained`: the names of the
    parameters that are trained already, if the run resumes. PiSSA subtracts its initial adapter from the base's
    weights: `checkpoint.plain_lora.adapter_start` records it.

    The adapter takes the base's dtype (the optimizer keeps fp32 masters): fp32 adapters on a bf16 base break
    ZeRO-3's all-gather in some DeepSpeed releases (DeepSpeed issue 8072). Raises InputError for a name of
    `target_modules` that is not in the model, and for an adapter that PEFT does not allow there.
    """
    from peft import get_peft_model

    targets = find_targets(model, config.target_modules, with_matrices=config.adapter != "adalora")
    if trained is not None:
        targets = targets.as_trained(trained)
    _check_allowed(model, config, targets)
    size = adapter_size(config)
    options: dict[str, Any] = {}
    # "all-linear" also covers GPT-2's Conv1D and leaves the output head out, whatever the architecture.
    options["target_modules"] = targets.plain_names or targets.layers
    if not config.target_modules and not targets.matrices:
        options["target_modules"] = ALL_LINEAR
    if targets.matrices:
        patterns = {rf".*\.{name}": number for name, number in targets.fused.items()}
        options["target_parameters"] = targets.matrices
        options["rank_pattern"] = {pattern: number * size.rank for pattern, number in patterns.items()}
        options["alpha_pattern"] = {pattern: number * size.alpha for pattern, number in patterns.items()}
    try:
        return get_peft_model(
            model, ADAPTERS[config.adapter](size, config, num_steps, **options), autocast_adapter_dtype=False
        )
    except ValueError as problem:  # what PEFT alone knows, such as layers of Mamba that read their weights elsewhere
        named = " ".join(config.target_modules) or ALL_LINEAR
        reason = " ".join(str(problem).split())
        raise InputError(f"--target-modules {named}, --adapter {config.adapter}: PEFT refuses it ({reason})") from None


def attach_to_shapes(model: PreTrainedModel, config: AdapterConfig) -> PeftModel:
    """Return a copy without weights, on torch's "meta" device, with the adapter, as `attach` does.

    PiSSA would decompose weights, which the copy does not have; its layers are LoRA's.
    """
    return attach(model, replace(config, adapter="lora") if config.adapter == "pissa" else config, num_steps=1000)


def check_attaches(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Raise InputError if `attach` would. `model` is a copy as `attach_to_shapes` takes."""
    _check_allowed(model, config, find_targets(model, config.target_modules, with_matrices=config.adapter != "adalora"))
    attach_to_shapes(model, config)


def _check_allowed(model: PreTrainedModel, config: AdapterConfig, targets: Targets) -> None:
    """Raise InputError, with flags that work, for what PEFT cannot adapt with this adapter."""
    size, kind = adapter_size(config), config.adapter
    layers = {name: model.get_submodule(name) for name in targets.layers}
    others = [name for name, layer in layers.items() if not is_linear(layer)]
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if others and kind in ("adalora", "pissa"):
        raise InputError(
            f"--target-modules: {others[0]} is no linear layer, which --adapter {kind} needs: choose lora, qlora, dora "
            "or rslora"
        )
    if kind == "pissa" and head is not None and head in layers.values() and head.weight is embeddings.weight:
        raise InputError(
            "--target-modules: the output head is the embeddings too, from which --adapter pissa would subtract its "
            "start: choose lora, qlora, dora or rslora"
        )
    packed = [name for name in targets.matrices if hasattr(model.get_parameter(name), "quant_state")]
    if targets.matrices and kind not in ("lora", "qlora", "rslora"):
        raise InputError(
            f"--adapter {kind}: PEFT adapts the matrices of experts ({_ends(targets.matrices)}) by lora, qlora and "
            f"rslora only: choose one of them with --dropout 0, or --target-modules {without(model, targets.matrices)}"
        )
    if targets.matrices and size.dropout:
        raise InputError(
            f"--dropout {size.dropout:g}: PEFT adapts the matrices of experts ({_ends(targets.matrices)}) without "
            f"dropout only: add --dropout 0, or --target-modules {without(model, targets.matrices)}"
        )
    if packed:
        raise InputError(
            f"--adapter {kind}: PEFT cannot adapt {_ends(packed)} in 4 bits beside experts: choose --adapter lora, or "
            f"--target-modules {without(model, packed)}"
        )
    if kind == "pissa":
        for name, layer in layers.items():
            if min(layer.weight.shape) < size.rank:
                rows, columns = layer.weight.shape
                raise InputError(
                    f"--rank {size.rank}: --adapter pissa starts from that many principal components, and {name} "
                    f"({rows} x {columns}) has {min(rows, columns)}"
                )


def _ends(names: Iterable[str]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[-2:]) for name in names}))


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Return the numbers of (trainable, all) parameters; 4-bit weights count one by one."""
    return model.get_nb_trainable_parameters()
