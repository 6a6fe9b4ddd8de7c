"""The saving of a run's state: all ranks gather it, a thread of rank 0 commits it as a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.writer import CheckpointWriter
from snake_dist.cluster.world import agree
from snake_dist.errors import InputError
from snake_dist.training.metrics import HELD_OUT_LOSS, PLAY_APPLES, Metrics, SilentLog
from snake_dist.zero.config import zero_stage
from snake_dist.zero.state import MASTER, gather_state

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run
    from snake_dist.training.adalora_ranks import RankAllocation


class Saver:
    """Saves the state of an engine and of AdaLoRA's `allocation`; every method is called by all ranks together."""

    def __init__(
        self,
        run: Run,
        engine: Any,
        allocation: RankAllocation | None,
        metrics: SilentLog,
        *,
        on_commit: Callable[[int], None],
        while_waiting: Callable[[], None],
    ) -> None:
        """`on_commit(step)` is called on rank 0 when a checkpoint is durable."""
        self._run, self._engine, self._allocation, self._metrics = run, engine, allocation, metrics
        self._while_waiting = while_waiting
        config = run.config.checkpoint
        self._writer = CheckpointWriter(run.output_dir, config.keep_checkpoints, config.best_by, on_commit)
        self._saved_step = run.first_step if run.checkpoint else None

    @property
    def has_failed(self) -> bool:
        """Whether this rank's last commit failed, or its log; `wait` raises the error."""
        return self._writer.has_failed or self._metrics.has_failed

    def save(self, step: int, held_out: Metrics, seconds: float, *, is_end: bool) -> None:
        """Save the state after `step` steps, unless it is saved; durable when this returns if it `is_end`.

        `held_out`: metrics of this step's evaluation, {} without one; `seconds`: training time so far.
        """
        if step == self._saved_step:
            return
        started = time.perf_counter()
        self.wait()
        tensors, optimizer = gather_state(self._engine)
        if self._allocation is not None:
            tensors |= self._allocation.state()
        if not all(bool(t.isfinite().all()) for name, t in tensors.items() if name.startswith(f"{MASTER}/")):
            raise InputError(f"step {step}: the adapter is no longer finite, and was not saved: lower --learning-rate")
        if self._run.world.is_main:
            numbers = {
                "fingerprint": self._run.fingerprint,
                "optimizer": optimizer,
                "held_out_loss": held_out.get(HELD_OUT_LOSS),
                "play_apples": held_out.get(PLAY_APPLES),
                "seconds": seconds,
                "wandb_run_id": self._metrics.wandb_run_id,
                "world_size": self._run.world.size,
                "zero_stage": zero_stage(self._run.ds_config),
                "config": self._run.config.flat(),
            }
            self._metrics.sync()
            self._writer.start(step, tensors, numbers)
        self._saved_step = step
        if is_end:
            self.wait()
        size = sum(tensor.nbytes for tensor in tensors.values())
        self._metrics.log(step, {"checkpoint/stall_s": time.perf_counter() - started, "checkpoint/bytes": size})

    def wait(self) -> None:
        """Wait until rank 0's last commit is durable; what it or the log failed with is raised on all ranks."""

        def wait() -> None:
            self._writer.wait(self._while_waiting)
            self._metrics.check()

        agree(self._run.world, wait)
