"""The watch over the ranks while they train, and the name of the one that was lost."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from snake_dist.cluster.watchdog import Watchdog
from snake_dist.errors import RankError

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run
    from snake_dist.run.status_file import StatusFile


class Watch:
    """Watches nothing until `start`."""

    def __init__(self, run: Run, status: StatusFile) -> None:
        self._run, self._status = run, status
        self._watchdog: Watchdog | None = None

    def start(self, engine: Any) -> None:
        """Watch the ranks from now on, each forward pass of `engine` being progress. Collective."""
        on_stuck = partial(self._status.write, "failed")
        watchdog = self._watchdog = Watchdog(self._run.world, self._run.config.checkpoint.rank_timeout_s, on_stuck)
        engine.module.register_forward_pre_hook(lambda *_: watchdog.beat())

    def beat(self) -> None:
        """Tell the other ranks that this one makes progress."""
        if self._watchdog is not None:
            self._watchdog.beat()

    def close(self) -> None:
        """Stop watching."""
        if self._watchdog is not None:
            self._watchdog.close()

    def explained(self, problem: BaseException) -> BaseException:
        """Return `problem`, or for a lost connection a RankError that names the lost rank, on the rank that says it."""
        if self._watchdog is None or self._run.world.size == 1:
            return problem
        if isinstance(problem, RankError):
            with contextlib.suppress(RuntimeError):  # the store may have gone with its rank
                self._watchdog.post_failure(str(problem))
        elif isinstance(problem, RuntimeError) and _is_lost_connection(problem):
            reason = self._watchdog.explain()
            return RankError(f"step {self._status.step + 1}: {reason}" if reason else "")
        return problem


def _is_lost_connection(problem: RuntimeError) -> bool:
    import torch

    if isinstance(problem, (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)):
        return True
    text = str(problem)
    return any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset", "NCCL"))
