"""One session of a run, from its start or a checkpoint to its end, a stop or a failure."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from snake_dist.cluster.preemption import StopFlag
from snake_dist.cluster.world import gather
from snake_dist.run.restore import logged_history
from snake_dist.run.saver import Saver
from snake_dist.run.status_file import StatusFile
from snake_dist.run.watch import Watch
from snake_dist.training.metrics import Metrics, SilentLog

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run
    from snake_dist.training.adalora_ranks import RankAllocation

Value = TypeVar("Value")


class Stopped(Exception):
    """The run was asked to stop, and has saved; raised on all ranks together."""


class Session:
    """Status, watch and saver of a run as one. All ranks create it together and call every method together."""

    def __init__(self, run: Run, stop: StopFlag | None = None) -> None:
        self.run = run
        self.stop = StopFlag() if stop is None else stop
        self.status = StatusFile(run)
        self.watch = Watch(run, self.status)
        self._saver: Saver | None = None
        self._started = time.perf_counter()
        self.history = logged_history(run)
        """What was logged up to the checkpoint, without the steps."""
        self.status.write("training")

    @property
    def seconds(self) -> float:
        """Training time so far, of earlier sessions up to their last checkpoint too."""
        return self.run.saved.get("seconds", 0.0) + time.perf_counter() - self._started

    def begin_training(self, engine: Any, allocation: RankAllocation | None, metrics: SilentLog) -> None:
        """Save the engine's state and watch the ranks from now on."""
        committed, beat = self.status.committed, self.watch.beat
        self._saver = Saver(self.run, engine, allocation, metrics, on_commit=committed, while_waiting=beat)
        self.watch.start(engine)

    def after_step(self, step: int, held_out: Metrics) -> bool:
        """Save if it is time to; True, on all ranks alike, if the run was asked to stop and has saved."""
        saver = self._saver
        assert saver is not None
        self.watch.beat()
        self.status.step = step
        stop, has_failed = self._on_any_rank(bool(self.stop), saver.has_failed)
        if has_failed:
            saver.wait()
        save_every = self.run.config.checkpoint.save_every
        is_end = stop or step == self.run.num_steps
        if is_end or (save_every and step % save_every == 0):
            saver.save(step, held_out, self.seconds, is_end=is_end)
        return stop

    def end_training(self) -> None:
        """Stop watching the ranks' progress, since what follows takes its time, and let go of the engine."""
        self.watch.stop()
        self._saver = None

    def raise_if_stopped(self) -> None:
        """Raise Stopped if training ended before its last step."""
        if self.status.step < self.run.num_steps:
            raise Stopped

    def gather(self, value: Value) -> list[Value]:
        """The value of every rank, as `world.gather`; raises Stopped if any rank was asked to stop."""
        outcomes = gather((value, bool(self.stop)), self.run.world)
        if any(stop for _, stop in outcomes):
            raise Stopped
        return [one for one, _ in outcomes]

    def _on_any_rank(self, *flags: bool) -> list[bool]:
        import torch

        table = torch.tensor(flags, dtype=torch.int32)  # on the CPU: gloo sees a lost rank at once
        torch.distributed.all_reduce(table, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in table.tolist()]


@contextlib.contextmanager
def session_of(run: Run, stop: StopFlag) -> Iterator[Session]:
    """A session of `run`, which gives up the run's directory at its end.

    An error that ends the session is written to status.json; where a rank was lost, one line names it.
    """
    try:
        with run.watchdog.explaining():
            session = Session(run, stop)
        try:
            yield session
            session.watch.end(well=True)
        except BaseException as problem:
            error = session.watch.explained(problem)
            with contextlib.suppress(OSError):  # a full disk is often the very problem
                session.status.write("failed", f"{type(error).__name__}: {error}"[:500])
            if error is problem:
                raise
            raise error from problem
        finally:
            session.end_training()
            session.watch.end(well=False)
    finally:
        if run.lock is not None:
            run.lock.release()
