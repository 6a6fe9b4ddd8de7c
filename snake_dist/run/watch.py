"""The watch over the ranks of a session, and the name of the one that was lost."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run
    from snake_dist.run.status_file import StatusFile


class Watch:
    """Watches the ranks' lives, and their progress between `start` and `stop`."""

    def __init__(self, run: Run, status: StatusFile) -> None:
        self._run, self._status, self._watchdog = run, status, run.watchdog
        self._watchdog.on_stuck = partial(status.write, "failed")

    def start(self, engine: Any) -> None:
        """Watch the progress of the ranks from now on; each forward pass of `engine` is some."""
        self._watchdog.watch_progress(True)
        engine.module.register_forward_pre_hook(lambda *_: self._watchdog.beat())

    def beat(self) -> None:
        """Tell the other ranks that this one makes progress."""
        self._watchdog.beat()

    def stop(self) -> None:
        """Stop watching the progress, since what follows takes its time."""
        self._watchdog.watch_progress(False)

    def end(self, *, well: bool) -> None:
        """Stop watching."""
        if well:
            self._watchdog.leave()
        else:
            self._watchdog.close()

    def explained(self, problem: BaseException) -> BaseException:
        """Return what the watchdog makes of the error, with the step while there are steps."""
        step = self._status.step + 1
        return self._watchdog.explained(problem, f"step {step}: " if step <= self._run.num_steps else "")
