"""The thread that commits checkpoints: training continues while it writes and syncs files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.checkpoints import commit, prune, verify

if TYPE_CHECKING:
    import torch


class CheckpointWriter:
    """Commits one checkpoint at a time, verifies it and prunes old ones."""

    def __init__(self, run_dir: Path, keep: int, best_by: str, on_commit: Callable[[int], None]) -> None:
        """`keep` and `best_by`: see `checkpoints.prune`. The writer's thread calls `on_commit(step)` when the
        checkpoint is durable and verified."""
        self._run_dir, self._keep, self._best_by, self._on_commit = run_dir, keep, best_by, on_commit
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a commit has failed since the last `wait`."""
        return self._error is not None

    def start(self, step: int, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Commit in the background; nobody may change `tensors` any more. Call `wait` first."""
        self._thread = threading.Thread(target=self._commit, args=(step, tensors, numbers), name="checkpoint")
        self._thread.start()

    def wait(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Wait for the last commit. Raises its OSError or InputError if it failed."""
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
        except Exception as problem:  # `wait` raises it in the main thread
            self._error = problem
