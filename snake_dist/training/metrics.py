"""A run's metrics: the names that several files use, and the log that takes every logged step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from tqdm import tqdm

from snake_dist.training.wandb_log import WandbLog

Metrics = dict[str, float]
"""Name, as in metrics.jsonl and W&B -> value."""

LOSS: Final = "train/loss"
TOKENS_PER_S: Final = "train/tokens_per_s"
LOSS_TOKENS_PER_S: Final = "train/loss_tokens_per_s"
HELD_OUT_LOSS: Final = "eval/loss"
EXACT_COMPLETIONS: Final = "eval/exact_completions"
PLAY_APPLES: Final = "eval/play/apples/mean"


class SilentLog:
    """The metrics log of every rank but 0: it takes the same calls and writes nothing."""

    wandb_run_id: str | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of one step."""

    def log_page(self, step: int, page: Path) -> None:
        """Show an HTML page in W&B, as the panel `report`."""

    def sync(self) -> None:
        """Make what was logged so far durable."""

    def close_bar(self) -> None:
        """End the progress line; metrics can still be logged."""

    def close(self) -> None:
        """End the log."""


class MetricsLog(SilentLog):
    """Rank 0's metrics log: one JSON object a logged step in metrics.jsonl, the progress line, W&B."""

    def __init__(self, path: Path, num_steps: int, wandb_log: WandbLog, first_step: int = 0) -> None:
        self.wandb_run_id = wandb_log.run_id
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._wandb = wandb_log
        self._bar = tqdm(total=num_steps, desc="training", unit="step", dynamic_ncols=True, initial=first_step)

    def log(self, step: int, metrics: Metrics) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._wandb.log(step, metrics)
        if LOSS in metrics:
            self._bar.set_postfix_str(
                f"loss {metrics[LOSS]:.4f}, {metrics[TOKENS_PER_S]:.0f} tokens/s, "
                f"{metrics[LOSS_TOKENS_PER_S]:.0f} trained/s",
                refresh=False,
            )
        self._bar.update(step - self._bar.n)

    def log_page(self, step: int, page: Path) -> None:
        self._wandb.log_page(step, page)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close_bar(self) -> None:
        self._bar.close()

    def close(self) -> None:
        self.close_bar()
        self._file.close()
        self._wandb.close()
