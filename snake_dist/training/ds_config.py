"""DeepSpeed configs: build ours, read anybody's, and fill in what the run config owns.

ZeRO, precision and offload belong to the file; batch sizes, learning rate and clipping belong to the run
config. A file may leave the latter out, say "auto" (the Hugging Face convention), or repeat the same value.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError

ZERO_STAGES = (0, 1, 2, 3)


def build_ds_config(stage: int) -> dict[str, Any]:
    """A config for one ZeRO stage, precision left to `--base-dtype`; `ds_configs/zero{stage}.json` holds it."""
    zero: dict[str, Any] = {"stage": stage}
    if stage >= 1:
        zero |= {"contiguous_gradients": True, "overlap_comm": True}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": "auto", "stage3_prefetch_bucket_size": "auto"}
    return {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
        # torch_adam: PyTorch's AdamW, so that nothing has to be compiled.
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
    }


def read_ds_config(path: str) -> dict[str, Any]:
    """The JSON object in the file. Raises InputError naming the file and the place of a fault."""
    try:
        found = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"--ds {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--ds {path}: not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError) as problem:
        line = getattr(problem, "lineno", 1)
        raise InputError(f"--ds {path}:{line}: not JSON ({getattr(problem, 'msg', problem)})") from None
    if not isinstance(found, dict):
        raise InputError(f"--ds {path}: a JSON object is expected")
    for block in ("bf16", "fp16", "zero_optimization", "optimizer"):
        if not isinstance(found.get(block, {}), dict):
            raise InputError(f"--ds {path}: {block!r} is to be an object, not {found[block]!r}")
    stage = found.get("zero_optimization", {}).get("stage", 0)
    if stage not in ZERO_STAGES:
        raise InputError(f"--ds {path}: zero_optimization.stage {stage!r}: choose from 0, 1, 2, 3")
    return found


def zero_stage(ds_config: dict[str, Any]) -> int:
    """ZeRO stage of a config; 0 if it says nothing."""
    return ds_config.get("zero_optimization", {}).get("stage", 0)


def fill_ds_config(
    ds_config: dict[str, Any],
    *,
    dtype: str,
    global_batch_size: int,
    micro_batch_size: int,
    accumulation: int,
    learning_rate: float,
    weight_decay: float,
    max_grad_norm: float,
    hidden_size: int,
) -> dict[str, Any]:
    """The config with every "auto" and every missing value of the run config filled in.

    Raises InputError, with both values, where the file contradicts the run config, and for an "auto" that
    nothing here can fill.
    """
    filled = copy.deepcopy(ds_config)
    if "scheduler" in filled:
        scheduler = filled.pop("scheduler")
        fixed = {key: value for key, value in scheduler.get("params", {}).items() if value != "auto"}
        if fixed:
            raise InputError(f"--ds: scheduler.params {fixed}: the run config owns the schedule: remove the block")
    owned: dict[tuple[str, ...], Any] = {
        ("train_batch_size",): global_batch_size,
        ("train_micro_batch_size_per_gpu",): micro_batch_size,
        ("gradient_accumulation_steps",): accumulation,
        ("gradient_clipping",): max_grad_norm,
        ("bf16", "enabled"): dtype == "bfloat16",
        ("fp16", "enabled"): dtype == "float16",
        ("optimizer", "params", "lr"): learning_rate,
        ("optimizer", "params", "weight_decay"): weight_decay,
    }
    filled.setdefault("optimizer", {}).setdefault("params", {"torch_adam": True})
    if filled["optimizer"].setdefault("type", "AdamW") == "auto":
        filled["optimizer"]["type"] = "AdamW"
    for keys, value in owned.items():
        _fill(filled, keys, value)
    # The Hugging Face convention also leaves these to the framework: its values.
    defaults: dict[tuple[str, ...], Any] = {
        ("optimizer", "params", "betas"): [0.9, 0.999],
        ("optimizer", "params", "eps"): 1e-8,
        ("zero_optimization", "reduce_bucket_size"): hidden_size**2,
        ("zero_optimization", "stage3_prefetch_bucket_size"): round(0.9 * hidden_size**2),
        ("zero_optimization", "stage3_param_persistence_threshold"): 10 * hidden_size,
    }
    for keys, value in defaults.items():
        block: Any = filled
        for key in keys[:-1]:
            block = block.get(key, {})
        if block.get(keys[-1]) == "auto":
            block[keys[-1]] = value
    filled.setdefault("steps_per_print", 10**9)  # the run has a progress line of its own
    unfilled = _auto_keys(filled)
    if unfilled:
        raise InputError(f'--ds: "auto" is not known for {", ".join(unfilled)}: write a value')
    return filled


def _fill(config: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Set the value at the nested keys if it is missing or "auto"; refuse another value."""
    block = config
    for key in keys[:-1]:
        block = block.setdefault(key, {})
    given = block.get(keys[-1], "auto")
    if given != "auto" and (type(given) is str or given != value):
        raise InputError(f"--ds: {'.'.join(keys)} is {given!r}, but the run config says {value!r}: they must agree")
    block[keys[-1]] = value


def _auto_keys(block: Any, prefix: str = "") -> list[str]:
    if isinstance(block, dict):
        return [key for name, inner in block.items() for key in _auto_keys(inner, f"{prefix}.{name}")]
    return [prefix.lstrip(".")] if block == "auto" else []
