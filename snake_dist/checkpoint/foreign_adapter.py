"""Adapters that another program saved in PEFT's format: what their files say of them, and what they leave open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError

CONFIG = "adapter_config.json"
MAX_COMPLETION_TOKENS = 512
"""Of an adapter whose longest completion nobody recorded; more than the longest style needs."""


def foreign_metadata(directory: Path) -> dict[str, Any]:
    """Return what `adapter_config.json` says, under the names of `adapter_metadata.json`; None for what it leaves open.

    Raises InputError if it is no configuration of an adapter.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: cannot be read ({problem})") from None
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise InputError(f"{path}: is no adapter's configuration: it has no peft_type")
    return {
        "adapter": _kind(config),
        "peft_config": config,
        "base_model": config.get("base_model_name_or_path"),
        "dtype": None,
        "grid_size": None,
        "mode": None,
        "style": None,
        "template": None,
        "max_completion_tokens": MAX_COMPLETION_TOKENS,
    }


def _kind(config: dict[str, Any]) -> str:
    """Return the value of --adapter that trains such an adapter, else what PEFT calls it."""
    if config["peft_type"] != "LORA":
        return str(config["peft_type"]).lower()
    if isinstance(start := config.get("init_lora_weights"), str) and start not in ("gaussian", "orthogonal", "eva"):
        return start.split("_niter")[0]  # one that changes the base's weights
    flags = {"use_dora": "dora", "use_rslora": "rslora"}
    return "-".join(kind for flag, kind in flags.items() if config.get(flag)) or "lora"
