"""DeepSpeed configs: build one from a few choices, read one from a file, fill in the values that the run config owns.

ZeRO, precision and offload belong to the file; batch sizes, learning rate and clipping belong to the run
config. A file may leave the latter out, say "auto" (the Hugging Face convention), or repeat the same value.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError
from snake_dist.zero.keys import check_keys

ZERO_STAGES = (0, 1, 2, 3)
OFFLOADS = ("none", "optimizer", "all")

REDUCE_BUCKET = 50_000_000
"""Elements of DeepSpeed's gradient buckets, which it allocates whole, two of them in stages 1 and 2. Its default of 5e8
takes 1.9 GiB of a GPU in bf16; an adapter's gradients fit into this one, or into a few."""

FILES: dict[str, dict[str, Any]] = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload": "optimizer"},
    "zero3": {"stage": 3},
    "zero3_offload": {"stage": 3, "offload": "all"},
    "zero3_hpz": {"stage": 3, "nodes": 2},
}
"""Name of each file in ds_configs/, which --ds takes too -> the choices that `build_ds_config` builds it from."""


def build_ds_config(stage: int, *, offload: str = "none", nodes: int = 1) -> dict[str, Any]:
    """Return a DeepSpeed config for a few choices; the files of `ds_configs/` hold such configs.

    `offload` to the host's memory: "optimizer" (stages 1 to 3) or "all", parameters too (stage 3). With several
    `nodes`, stage 3 keeps a second set of shards inside each node (hpZ of ZeRO++), so that the backward pass gathers
    the base without crossing the network. The parts of ZeRO++ that round messages (qwZ, qgZ) stay off: they would
    change the results. Raises InputError.
    """
    _choose("stage", stage, ZERO_STAGES)
    _choose("offload", offload, OFFLOADS)
    if (offload == "optimizer" and stage == 0) or (offload == "all" and stage != 3):
        raise InputError(f"offload {offload!r} contradicts stage {stage}: optimizer needs 1 or more, all needs 3")
    zero: dict[str, Any] = {"stage": stage}
    if stage >= 1:
        # Overlap helps ZeRO-3's gathers. Below, an adapter's gradients leave nothing to overlap, and each backward pass
        # would wait for the device and hold a second bucket.
        zero |= {"contiguous_gradients": True, "overlap_comm": stage == 3, "reduce_bucket_size": REDUCE_BUCKET}
    if stage in (1, 2):
        # Each gradient goes to the rank that owns it. DeepSpeed's default all-reduces them: half as many bytes more.
        zero["use_multi_rank_bucket_allreduce"] = False
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": "auto", "stage3_prefetch_bucket_size": "auto"}
    if offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": "auto"}
    if offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": "auto"}
    if nodes > 1 and stage == 3:
        zero["zero_hpz_partition_size"] = "auto"
    return {
        "bf16": {"enabled": "auto"},  # --base-dtype decides
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
        # torch_adam: PyTorch's AdamW, so that nothing has to be compiled.
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
    }


def _choose(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices or isinstance(value, bool):
        raise InputError(f"{name} {value!r}: choose from {', '.join(map(str, choices))}")


def read_ds_config(path: str) -> dict[str, Any]:
    """Return the JSON object in the file, or the ready config of this name, such as zero2.

    Raises InputError naming the file and the place of a fault.
    """
    if path in FILES:
        return build_ds_config(**FILES[path])
    try:
        config = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as problem:
        ready = f"; ready ones: {', '.join(FILES)}" if "/" not in path else ""
        raise InputError(f"--ds {path}: {problem.strerror}{ready}") from None
    except UnicodeDecodeError:
        raise InputError(f"--ds {path}: not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError) as problem:
        line = getattr(problem, "lineno", 1)
        raise InputError(f"--ds {path}:{line}: not JSON ({getattr(problem, 'msg', problem)})") from None
    if not isinstance(config, dict):
        raise InputError(f"--ds {path}: a JSON object is expected")
    check_keys(config, path)
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage not in ZERO_STAGES or isinstance(stage, bool):
        raise InputError(f"--ds {path}: zero_optimization.stage {stage!r}: choose from 0, 1, 2, 3")
    for key, lowest in (("offload_optimizer", 1), ("offload_param", 3), ("zero_hpz_partition_size", 3)):
        asked = zero.get(key)
        is_off = not asked or asked == 1 or (isinstance(asked, dict) and asked.get("device") == "none")
        if stage < lowest and not is_off:
            raise InputError(
                f"--ds {path}: zero_optimization.{key} contradicts zero_optimization.stage {stage}: "
                f"it needs stage {lowest}{'' if lowest == 3 else ' or more'}"
            )
    kind = config.get("optimizer", {}).get("type", "auto")
    if kind not in ("auto", "Adam", "AdamW"):
        raise InputError(f"--ds {path}: optimizer.type {kind!r}: choose from Adam, AdamW, auto")
    return config


def check_pair(ds_config: dict[str, Any], adapter: str) -> None:
    """Raise InputError for an adapter that cannot be trained under this config."""
    zero = ds_config.get("zero_optimization", {})
    for key in ("zero_quantized_weights", "zero_quantized_nontrainable_weights"):
        if adapter == "qlora" and zero.get(key):
            raise InputError(
                f"--adapter qlora contradicts --ds, whose zero_optimization.{key} is {zero[key]!r}: 4-bit storage "
                "would be rounded as if it were numbers"
            )
    fused = ds_config.get("optimizer", {}).get("params", {}).get("torch_adam", True) is False
    if adapter == "adalora" and zero_stage(ds_config) == 0 and fused:
        raise InputError(
            "--adapter adalora contradicts --ds, whose optimizer.params.torch_adam is False at stage 0: fused masters "
            "cannot be masked: use torch_adam true or a stage above 0"
        )


def zero_stage(ds_config: dict[str, Any]) -> int:
    """Return the ZeRO stage of a config; 0 if it sets none."""
    return ds_config.get("zero_optimization", {}).get("stage", 0)


@dataclass(frozen=True)
class RunValues:
    """The values that the run config decides: a file may leave them out, say "auto" or repeat them."""

    dtype: str
    global_batch_size: int
    micro_batch_size: int
    accumulation: int
    world_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float


def fill_ds_config(
    ds_config: dict[str, Any], values: RunValues, *, hidden_size: int, local_size: int = 1
) -> dict[str, Any]:
    """Return the config with every "auto" and every missing one of the run's `values` filled in.

    `local_size`: ranks of this node. Raises InputError, with both values, where the file contradicts the run
    config, and for an "auto" that nothing here can fill.
    """
    filled = copy.deepcopy(ds_config)
    if "scheduler" in filled:
        scheduler = filled.pop("scheduler")
        fixed = {key: value for key, value in scheduler.get("params", {}).items() if value != "auto"}
        if fixed:
            raise InputError(f"--ds: scheduler.params {fixed}: the run's flags set the schedule: remove the block")
    owned: dict[tuple[str, ...], Any] = {
        ("train_batch_size",): values.global_batch_size,
        ("train_micro_batch_size_per_gpu",): values.micro_batch_size,
        ("gradient_accumulation_steps",): values.accumulation,
        ("gradient_clipping",): values.max_grad_norm,
        ("bf16", "enabled"): values.dtype == "bfloat16",
        ("fp16", "enabled"): values.dtype == "float16",
        ("optimizer", "params", "lr"): values.learning_rate,
        ("optimizer", "params", "weight_decay"): values.weight_decay,
    }
    # Unless the file wants DeepSpeed's own Adam, which it would compile at the first start.
    filled.setdefault("optimizer", {}).setdefault("params", {}).setdefault("torch_adam", True)
    if filled["optimizer"].setdefault("type", "AdamW") == "auto":
        filled["optimizer"]["type"] = "AdamW"
    for keys, value in owned.items():
        _fill(filled, keys, value)
    # Trap: DeepSpeed wants the three sizes to multiply, also where micro-batches differ by an example.
    largest = math.ceil(values.global_batch_size / (values.world_size * values.accumulation))
    filled["train_micro_batch_size_per_gpu"] = largest
    filled["train_batch_size"] = largest * values.accumulation * values.world_size
    for keys, value in _defaults(hidden_size, local_size).items():
        block: Any = filled
        for key in keys[:-1]:
            block = block.get(key, {})
        if block.get(keys[-1]) == "auto":
            block[keys[-1]] = value
    filled.setdefault("steps_per_print", 10**9)  # the run has a progress line of its own
    # DeepSpeed's own speed meter makes the host wait for the device twice in every micro-batch.
    filled.setdefault("timers", {}).setdefault("throughput", {}).setdefault("enabled", False)
    unfilled = _auto_keys(filled)
    if unfilled:
        raise InputError(f'--ds: no value is known for "auto" in {", ".join(unfilled)}: write a value')
    hpz = filled.get("zero_optimization", {}).get("zero_hpz_partition_size", 1)
    if local_size % hpz:
        raise InputError(
            f"--ds: zero_optimization.zero_hpz_partition_size {hpz} does not divide the {local_size} ranks of a node"
        )
    return filled


def _defaults(hidden_size: int, local_size: int) -> dict[tuple[str, ...], Any]:
    """Return the values of every other "auto" that the Hugging Face convention allows: nested keys -> value."""
    import torch

    zero = "zero_optimization"
    on_gpu = torch.cuda.is_available()
    return {
        ("optimizer", "params", "betas"): [0.9, 0.999],
        ("optimizer", "params", "eps"): 1e-8,
        (zero, "reduce_bucket_size"): hidden_size**2,
        (zero, "stage3_prefetch_bucket_size"): round(0.9 * hidden_size**2),
        (zero, "stage3_param_persistence_threshold"): 10 * hidden_size,
        (zero, "zero_hpz_partition_size"): local_size,
        (zero, "offload_optimizer", "pin_memory"): on_gpu,
        (zero, "offload_param", "pin_memory"): on_gpu,
    }


def _fill(config: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Set the value at the nested keys if it is missing or "auto". Raises InputError for another value."""
    block = config
    for key in keys[:-1]:
        block = block.setdefault(key, {})
    given = block.get(keys[-1], "auto")
    if given != "auto" and (type(given) is str or given != value):
        raise InputError(f"--ds: {'.'.join(keys)} is {given!r}, but the run config says {value!r}: they must agree")
    block[keys[-1]] = value


def _auto_keys(block: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys below `block` whose value is "auto", or holds it in a list."""
    if isinstance(block, dict):
        return [key for name, inner in block.items() for key in _auto_keys(inner, f"{prefix}.{name}")]
    if isinstance(block, list):
        return [key for inner in block for key in _auto_keys(inner, prefix)]
    return [prefix.lstrip(".")] if block == "auto" else []
