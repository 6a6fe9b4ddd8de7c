"""What of a finished run has versions elsewhere: adapter, best checkpoint, report, and the data that it is from."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.checkpoints import NUMBERS, best_checkpoint
from snake_dist.checkpoint.saved_adapter import read_metadata
from snake_dist.files import ADAPTER_DIR, REPORT_DIR
from snake_dist.run.summary import Summary
from snake_dist.training.metrics import LOSS
from snake_dist.training.sinks import Artifact

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run


def artifacts_of(run: Run, summary: Summary) -> list[Artifact]:
    """Return them, the input last: only the service can say whether it knows that one.

    The names are of the run's directory: the runs of one directory are versions of each other.
    """
    name = re.sub(r"[^\w.-]", "-", run.config.wandb.wandb_name or run.output_dir.name)[:100]
    data = summary["data"]
    metrics = {key: value for key, value in summary["training"].items() if key == LOSS or key.startswith("eval/")}
    best = best_checkpoint(run.output_dir, run.config.checkpoint.best_by)
    is_best = best is not None and _step(best) == run.num_steps
    metadata = read_metadata(run.output_dir / ADAPTER_DIR)
    aliases = ("final", "best") if is_best else ("final",)
    found = [Artifact(f"{name}-adapter", "model", metadata | metrics, run.output_dir / ADAPTER_DIR, aliases)]
    if best is not None and not is_best:
        numbers: dict[str, Any] = json.loads((best / NUMBERS).read_text(encoding="utf-8"))
        known = {key: numbers.get(key) for key in ("step", "held_out_loss", "play_apples", "fingerprint")}
        found.append(Artifact(f"{name}-checkpoint", "model", known, best, ("best",)))
    if "play" in summary:
        found.append(Artifact(f"{name}-report", "report", {}, run.output_dir / REPORT_DIR, ("final",)))
    source = {"fingerprint": data["fingerprint"], "files": data["files"], "train_examples": data["train_examples"]}
    return [*found, Artifact(f"data-{data['fingerprint'].removeprefix('sha256:')[:16]}", "dataset", source)]


def _step(checkpoint: Any) -> int:
    return int(checkpoint.name.removeprefix("step-"))
