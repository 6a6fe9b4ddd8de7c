"""Small real runs: a tiny model, generated games, the whole way through `finetune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import snake_dist as sd
from snake_dist.data.generation import generate
from snake_dist.data.generation_config import GenerationConfig
from snake_dist.zero.config import RunValues

RUN_VALUES = RunValues(
    dtype="bfloat16",
    global_batch_size=16,
    micro_batch_size=4,
    accumulation=2,
    world_size=2,
    learning_rate=1e-3,
    weight_decay=0.0,
    max_grad_norm=1.0,
)


def tiny_data(directory: Path, **overrides: Any) -> Path:
    """A few short games on a 5 x 5 board, with prompts and completions of very different lengths."""
    options: dict[str, Any] = {"grid_size": 5, "games": 6, "max_steps_per_game": 12, "style": "compact"}
    generate(GenerationConfig(**options | overrides), directory, workers=1)
    return directory


def tiny_flags(model: Path, data: Path, output: Path, **flags: Any) -> list[str]:
    """A run of 3 steps in fp32 without dropout or games; `flags` as on the command line (underscores)."""
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
        "eval_games": 0,
        "held_out_share": 0.2,
        "wandb_mode": "disabled",
        **flags,
    }
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def tiny_config(model: Path, data: Path, output: Path, **flags: Any) -> sd.RunConfig:
    """The configuration of `tiny_flags`."""
    from snake_dist.run.config import parse_run_config

    return parse_run_config(tiny_flags(model, data, output, **flags))


def logged(output: Path, metric: str) -> list[float]:
    """The metric's values in metrics.jsonl, step by step."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [entry[metric] for entry in map(json.loads, lines) if metric in entry]


def adapter_tensors(output: Path) -> dict[str, Any]:
    """The saved adapter."""
    from safetensors.torch import load_file

    return load_file(output / "lora_adapters/model_artifacts/adapter_model.safetensors")


def uneven_data(path: Path, num_lines: int = 40) -> Path:
    """Lines whose completions have from 1 to 60 trained tokens, most of them few: one file of plain pairs."""
    lengths = [1, 2, 60, 3, 1, 25, 2, 1]
    lines = []
    for i in range(num_lines):
        completion = ("cdefghij" * 8)[i % 5 :][: lengths[i % len(lengths)]]
        lines.append({"prompt": f"{path.stem} {i} " + "ab" * (i % 7), "completion": completion})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def train_each(configs: list[sd.RunConfig]) -> list[tuple[dict[str, list[float]], dict[str, Any]]]:
    """On a rank: train one config after the other in this process, which costs less than starting ranks for each.

    [(metric -> its values step by step, the adapter as it would be saved)] of each run.
    """
    from snake_dist.checkpoint.plain_lora import plain_adapter
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.preparation import prepare
    from snake_dist.run.session import Session
    from snake_dist.run.training import load_model, train_model
    from snake_dist.training.metrics import SilentLog

    class Log(SilentLog):
        def __init__(self) -> None:
            self.values: dict[str, list[float]] = {}

        def log(self, step: int, metrics: dict[str, float]) -> None:  # noqa: ARG002
            for name, value in metrics.items():
                self.values.setdefault(name, []).append(value)

    outcomes = []
    for config in configs:
        run = prepare(config, world_from_environment())
        model, collate = load_model(run)
        log = Log()
        trained = train_model(run, model, collate, log, Session(run))
        plain = plain_adapter(trained.peft_config, trained.tensors, trained.start)
        outcomes.append((log.values, {name: tensor.float().numpy() for name, tensor in plain.tensors.items()}))
    return outcomes
