"""The metadata and the model card of a saved adapter."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from snake_dist.model import adapters, smollm2
from snake_dist.run.summary import TrainingSummary
from snake_dist.training.metrics import HELD_OUT_LOSS

if TYPE_CHECKING:
    from peft import PeftConfig

    from snake_dist.run.preparation import Run

VERSIONED = ("snake_dist", "torch", "deepspeed", "transformers", "peft", "bitsandbytes", "safetensors")


def software_versions() -> dict[str, str]:
    """Return package -> installed version."""
    versions = {}
    for name in VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def adapter_metadata(run: Run, peft_config: PeftConfig, training: TrainingSummary) -> dict[str, Any]:
    """Return what `adapter_metadata.json` holds: everything needed to load, judge and reproduce the adapter."""
    config = run.config
    embedded = config.model.base_model == smollm2.NAME
    # Other tools load this base under the adapter; ours load `base_model`.
    peft_config.base_model_name_or_path = smollm2.HUB_ID if embedded else run.base_location
    return {
        "adapter": config.adapter.adapter,
        "preset": config.adapter.preset,
        "lora_plus_ratio": config.adapter.lora_plus_ratio,
        "peft_config": json.loads(json.dumps(peft_config.to_dict(), default=_plain)),
        "base_model": config.model.base_model if embedded else run.base_location,
        "base_model_hub_id": smollm2.HUB_ID if embedded else None,
        "base_model_revision": run.shape.revision,
        "dtype": run.dtype,
        "quantization": adapters.QUANTIZATION.get(config.adapter.adapter),
        "grid_size": run.board.grid_size,
        "mode": run.board.mode,
        "style": run.board.style,
        "template": config.data.template,
        "max_completion_tokens": run.data.training.longest_completion,
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset_fingerprint": run.data.dataset.fingerprint,
        "train_examples": len(run.data.train_examples),
        "seed": config.training.seed,
        "world_size": run.world.size,
        "versions": software_versions(),
        "metrics": training,
    }


def _plain(value: Any) -> Any:
    """Return the JSON form of a value of PEFT's configs that JSON lacks."""
    return sorted(value) if isinstance(value, set) else str(value)


def model_card(metadata: dict[str, Any]) -> str:
    """Return the README.md of a saved adapter, with the front matter that model hubs read."""
    peft, training = metadata["peft_config"], metadata["metrics"]
    loss = f" Held-out loss {training[HELD_OUT_LOSS]:.4f}." if HELD_OUT_LOSS in training else ""
    rank, precision = peft.get("target_r", peft["r"]), metadata["quantization"] or metadata["dtype"]
    return f"""---
library_name: peft
base_model: {metadata["base_model_hub_id"] or metadata["base_model"]}
tags: [lora, snake]
---

# Snake on a {metadata["grid_size"]} x {metadata["grid_size"]} board ({metadata["mode"]})

A {metadata["adapter"]} adapter (rank {rank}, alpha {peft["lora_alpha"]}) that was fine-tuned to answer a
position of Snake, put in the style "{metadata["style"]}", with a move.

Base model: `{metadata["base_model"]}` ({metadata["base_model_revision"]}), {precision}.
Trained on {metadata["train_examples"]:,} lines, data fingerprint `{metadata["dataset_fingerprint"][:16]}`,
seed {metadata["seed"]}.{loss}

```python
from snake_dist import load_player, new_game

player = load_player("PATH OF THIS DIRECTORY")
print(player.replies([new_game({metadata["grid_size"]}, seed=1)]))
```

Made with snake_dist {metadata["versions"]["snake_dist"]}. The rest of its record is in `adapter_metadata.json`.
"""
