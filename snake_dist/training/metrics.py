"""A run's metrics: the names that several files use, and the log that takes every logged step."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from tqdm import tqdm

from snake_dist.files import append_line, naming_errors
from snake_dist.training.sinks import Artifact, SinkThread, close_all

Metrics = dict[str, float]
"""Name, as in metrics.jsonl and W&B -> value."""

LOSS: Final = "train/loss"
TOKENS_PER_S: Final = "train/tokens_per_s"
LOSS_TOKENS_PER_S: Final = "train/loss_tokens_per_s"
HELD_OUT_LOSS: Final = "eval/loss"
EXACT_COMPLETIONS: Final = "eval/exact_completions"
PLAY_APPLES: Final = "eval/play/apples/mean"


STEPS_TO_ESTIMATE = 5
"""Steps between the first one and the estimate of the run's time."""


class SilentLog:
    """The metrics log of every rank but 0: it takes the same calls and writes nothing."""

    wandb_run_id: str | None = None
    has_failed = False
    """Whether something that was logged could not be written; `check` raises the error."""

    def check(self) -> None:
        """Raise the OSError of the first line that could not be written, if any."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the metrics of one step."""

    def log_page(self, step: int, page: Path) -> None:
        """Show an HTML page in the sinks that can, as the panel `report`."""

    def log_artifact(self, artifact: Artifact) -> None:
        """Pass the artifact to the sinks that keep them."""

    def sync(self) -> None:
        """Make what was logged so far durable."""

    def close_bar(self) -> None:
        """End the progress line; metrics can still be logged."""

    def close(self) -> None:
        """End the log."""


class MetricsLog(SilentLog):
    """Rank 0's metrics log: one JSON object a logged step in metrics.jsonl, the progress line, the sinks."""

    def __init__(
        self,
        path: Path,
        num_steps: int,
        *,
        first_step: int = 0,
        sinks: Sequence[SinkThread] = (),
        wandb_run_id: str | None = None,
    ) -> None:
        self.wandb_run_id = wandb_run_id
        self._path = path
        self._error: OSError | None = None
        self._file = path.open("ab", buffering=0)  # what a full disk refuses must not come up again at the end
        self._sinks = sinks
        self._num_steps = num_steps
        self._first_timed: tuple[int, float] | None = None
        self._is_estimated = False
        self._bar = tqdm(total=num_steps, desc="training", unit="step", dynamic_ncols=True, initial=first_step)

    @property
    def has_failed(self) -> bool:  # type: ignore[override]
        return self._error is not None

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def log(self, step: int, metrics: Metrics) -> None:
        with self._keeping_error():
            append_line(self._file, json.dumps({"step": step, **metrics}).encode() + b"\n")
        for sink in self._sinks:
            sink.call(lambda each: each.log(step, metrics))
        if LOSS in metrics:
            self._estimate(step)
            self._bar.set_postfix_str(
                f"loss {metrics[LOSS]:.4f}, {metrics[TOKENS_PER_S]:.0f} tokens/s, "
                f"{metrics[LOSS_TOKENS_PER_S]:.0f} trained/s",
                refresh=False,
            )
        self._bar.update(step - self._bar.n)

    def _estimate(self, step: int) -> None:
        """Say once, after a few steps, how long the others take. A session's first is slower and does not count."""
        now = time.monotonic()
        if self._first_timed is None:
            self._first_timed = (step, now)
        first, began = self._first_timed
        num_left = self._num_steps - step
        if self._is_estimated or step - first < STEPS_TO_ESTIMATE or num_left <= 0:
            return
        self._is_estimated = True
        each = (now - began) / (step - first)
        left = timedelta(seconds=round(each * num_left))
        text = f"about {left} (h:mm:ss) of training left: {num_left} steps of {each:.2g} s; games not counted"
        self._bar.write(text, file=sys.stderr)

    def log_page(self, step: int, page: Path) -> None:
        for sink in self._sinks:
            sink.call(lambda each: each.log_page(step, page))

    def log_artifact(self, artifact: Artifact) -> None:
        for sink in self._sinks:
            sink.call(lambda each: each.log_artifact(artifact))

    def sync(self) -> None:
        with self._keeping_error(), naming_errors(self._path):
            os.fsync(self._file.fileno())

    @contextmanager
    def _keeping_error(self) -> Iterator[None]:
        """Keep an OSError, rank 0's alone, until all ranks raise it together."""
        try:
            yield
        except OSError as problem:
            self._error = self._error or problem

    def close_bar(self) -> None:
        self._bar.close()

    def close(self) -> None:
        self.close_bar()
        self._file.close()
        close_all(self._sinks)
