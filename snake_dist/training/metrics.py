"""Where a run's numbers go on rank 0: metrics.jsonl, the progress line, W&B."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tqdm import tqdm

from snake_dist.training.loop import Metrics
from snake_dist.training.wandb_log import WandbLog


class MetricsLog:
    """Writes each logged step as one JSON object and shows it live. Call `close` at the end."""

    def __init__(self, path: Path, num_steps: int, wandb_log: WandbLog, first_step: int = 0) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._wandb = wandb_log
        self._bar = tqdm(total=num_steps, desc="training", unit="step", dynamic_ncols=True, initial=first_step)

    def log(self, step: int, metrics: Metrics) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._wandb.log(step, metrics)
        if "train/loss" in metrics:
            self._bar.set_postfix_str(
                f"loss {metrics['train/loss']:.4f}, {metrics['train/tokens_per_s']:.0f} tokens/s, "
                f"{metrics['train/loss_tokens_per_s']:.0f} trained/s",
                refresh=False,
            )
        self._bar.update(step - self._bar.n)

    def sync(self) -> None:
        """Make what was logged so far durable."""
        os.fsync(self._file.fileno())

    def log_page(self, step: int, page: Path) -> None:
        """Show an HTML page in W&B, as the panel `report`."""
        self._wandb.log_page(step, page)

    def close_bar(self) -> None:
        """End the progress line; metrics can still be logged."""
        self._bar.close()

    def close(self) -> None:
        self.close_bar()
        self._file.close()
        self._wandb.close()
