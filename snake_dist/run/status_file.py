"""status.json of one session: how far the run got, what is saved, how the session ended."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from snake_dist.checkpoint.checkpoints import checkpoint_path
from snake_dist.checkpoint.run_dir import State, Status, read_status, write_status

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run


class StatusFile:
    """Rank 0's status.json; on the other ranks nothing is written.

    Several threads write it: the main one, the one that commits checkpoints, the watchdog's. The first end stays.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writes = threading.Lock()
        self._has_ended = False
        self.step = run.first_step
        """Steps done."""
        self._committed_step = run.first_step if run.checkpoint else None
        previous = read_status(run.output_dir) if run.world.is_main else None
        self._restarts = previous.restarts_without_progress if previous else 0

    def write(self, state: State, reason: str | None = None) -> None:
        run, saved = self._run, self._committed_step
        if not run.world.is_main:
            return
        with self._writes:
            if self._has_ended:
                return
            status = Status(
                state=state,
                step=self.step,
                num_steps=run.num_steps,
                checkpoint=None if saved is None else checkpoint_path(".", saved).as_posix(),
                reason=reason,
                restarts_without_progress=self._restarts,
                started_at_step=run.first_step,
            )
            write_status(run.output_dir, status)
            self._has_ended = state != "training"

    def committed(self, step: int) -> None:
        """Note that the checkpoint of `step` is durable."""
        self._committed_step = step
        self.write("training")
