"""Signals that ask a run to stop: they set a flag, which the run reads at the end of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopFlag:
    """Whether this process was asked to stop. Signals that come again change nothing."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def __enter__(self) -> StopFlag:
        """Catch SIGTERM and SIGUSR1 from now on. Do nothing outside the main thread, which alone can catch signals."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {name: signal.signal(name, self._set) for name in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the signal handlers from before."""
        for name, handler in self._previous.items():
            signal.signal(name, handler)  # type: ignore[arg-type]
        self._previous = {}

    def _set(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
