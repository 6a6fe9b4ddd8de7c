"""Commits checkpoints in a thread of its own: training goes on while files are written and synced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.checkpoints import commit, prune, verify

if TYPE_CHECKING:
    import torch


class CheckpointWriter:
    """One commit at a time, each followed by its verification and the pruning of old ones."""

    def __init__(self, run_dir: Path, keep: int, best_by: str, on_commit: Callable[[int], None]) -> None:
        """`keep` and `best_by`: see `checkpoints.prune`. `on_commit(step)` is called in the writer's thread when the
        checkpoint is durable and verified."""
        self._run_dir, self._keep, self._best_by, self._on_commit = run_dir, keep, best_by, on_commit
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a commit failed since the last `wait`."""
        return self._error is not None

    def start(self, step: int, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Commit in the background; nobody may change `tensors` any more. Call `wait` before."""
        self._thread = threading.Thread(target=self._commit, args=(step, tensors, numbers), name="checkpoint")
        self._thread.start()

    def wait(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Wait for the last commit. Raises what it raised: OSError or InputError."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)
            while_waiting()
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _commit(self, step: int, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        try:
            verify(commit(self._run_dir, step, tensors, numbers))
            self._on_commit(step)
            prune(self._run_dir, self._keep, self._best_by)
        except Exception as problem:  # a thread has nobody to raise to: `wait` raises it
            self._error = problem
