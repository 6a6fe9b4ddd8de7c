"""Weights & Biases in a thread of its own, so that it can neither block nor stop training."""

from __future__ import annotations

import queue
import secrets
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, which receives the metrics of metrics.jsonl."""

    wandb_mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online where a W&B API key is set, else offline; `wandb sync` uploads offline runs."""
    wandb_project: str = "snake_dist"
    """W&B project."""
    wandb_group: str | None = None
    """W&B group of runs to compare."""


class WandbLog:
    """Passes metrics to one W&B run. A failure prints one line on stderr; metrics.jsonl stays complete."""

    def __init__(
        self, config: WandbConfig, directory: Path, run_config: dict[str, Any], run_id: str | None = None
    ) -> None:
        """`directory`: for W&B's files; `run_config`: shown with the run; `run_id`: of the W&B run to resume."""
        self.run_id = run_id or secrets.token_hex(4)
        self._config, self._directory, self._run_config = config, directory, run_config
        self._calls: queue.SimpleQueue[tuple[int, dict[str, float] | Path] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if config.wandb_mode != "disabled":
            self._thread.start()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._calls.put((step, metrics))

    def log_page(self, step: int, page: Path) -> None:
        """Show a self-contained HTML file as the panel `report`."""
        self._calls.put((step, page))

    def close(self, timeout_s: float = 60.0) -> None:
        """Wait until W&B has finished, at most `timeout_s`."""
        if self._config.wandb_mode == "disabled":
            return
        self._calls.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            print(
                f"W&B did not finish within {timeout_s:g} s: upload later with "
                f"`wandb sync {self._directory / 'wandb'}/*run-*-{self.run_id}`",
                file=sys.stderr,
            )

    def _work(self) -> None:
        try:
            import wandb

            mode = self._config.wandb_mode
            if mode in ("auto", "online") and not wandb.login(prompt=False):
                if mode == "online":
                    print("W&B: no API key (run `wandb login`): logging offline", file=sys.stderr)
                mode = "offline"
            run = wandb.init(
                id=self.run_id,
                project=self._config.wandb_project,
                group=self._config.wandb_group,
                name=self._directory.name,
                dir=str(self._directory),
                config=self._run_config,
                mode="online" if mode == "auto" else mode,
                resume="allow" if mode in ("auto", "online") else None,
                settings=wandb.Settings(console="off", quiet=True, silent=True),
            )
            while (call := self._calls.get()) is not None:
                step, logged = call
                run.log(
                    {"report": wandb.Html(str(logged), inject=False)} if isinstance(logged, Path) else logged, step=step
                )
            run.finish()
        except Exception as problem:  # whatever W&B raises, training continues: metrics.jsonl is complete
            reason = " ".join(str(problem).split())
            print(f"W&B stopped logging ({type(problem).__name__}: {reason[:200]})", file=sys.stderr)
