"""Small real runs: a tiny model, generated games, the whole way through `finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import snake_dist as sd
from snake_dist.data.generation import GenerationConfig, generate


def tiny_data(directory: Path, **overrides: Any) -> Path:
    """A few short games on a 5 x 5 board, with prompts and completions of very different lengths."""
    options: dict[str, Any] = {"grid_size": 5, "games": 6, "max_steps_per_game": 12, "style": "compact"}
    generate(GenerationConfig(**options | overrides), directory, workers=1, show_progress=False)
    return directory


def tiny_config(model: Path, data: Path, output: Path, **flags: Any) -> sd.RunConfig:
    """A run of 3 steps in fp32 without dropout or games, with flags as on the command line (underscores)."""
    from snake_dist.run_config import parse_run_config

    options: dict[str, Any] = {
        "base_model": model,
        "data": data,
        "output_dir": output,
        "base_dtype": "float32",
        "rank": 4,
        "dropout": 0.0,
        "max_steps": 3,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "learning_rate": 1e-2,
        "play_games": 0,
        "held_out_share": 0.2,
        "wandb_mode": "disabled",
        **flags,
    }
    argv = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return parse_run_config(argv)


def logged(output: Path, metric: str) -> list[float]:
    """The metric's values in metrics.jsonl, step by step."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [entry[metric] for entry in map(json.loads, lines) if metric in entry]


def adapter_tensors(output: Path) -> dict[str, Any]:
    """The saved adapter."""
    from safetensors.torch import load_file

    return load_file(output / "lora_adapters/model_artifacts/adapter_model.safetensors")


def finetune_each(configs: list[sd.RunConfig]) -> list[dict[str, Any]]:
    """On a rank: one run after the other in this process, which costs less than starting ranks for each."""
    from snake_dist.finetune import finetune

    return [finetune(config) for config in configs]
