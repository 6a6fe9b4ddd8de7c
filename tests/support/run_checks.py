"""Questions about the directory of a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.support.runs import logged

NUM_STEPS = 8


def check_equal(run: Path, oracle: Path) -> None:
    """To the bit: losses, gradient norms, held-out losses and the adapter; every step logged once."""
    for metric in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"):
        assert logged(run, metric) == logged(oracle, metric), metric
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, NUM_STEPS + 1))
    assert adapter_hash(run) == adapter_hash(oracle)


def adapter_hash(run: Path) -> str:
    return hashlib.sha256((run / "lora_adapters/model_artifacts/adapter_model.safetensors").read_bytes()).hexdigest()


def ids_of(path: Path) -> dict[int, list[int]]:
    """Step -> its examples."""
    return dict(map(json.loads, path.read_text().splitlines()))


def status_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the checkpoints there are; nothing else may lie beside them."""
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert all(name.startswith("step-") for name in names), names
    return [int(name.removeprefix("step-")) for name in names]
