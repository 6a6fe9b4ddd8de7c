"""The work of the host on what comes next, on a thread, while the device computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class OneAhead(Generic[Made]):
    """Makes something for each step; once asked for one, it makes the next one on a thread."""

    def __init__(self, make: Callable[[int], Made], num_steps: int) -> None:
        self._make, self._num_steps = make, num_steps
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._ahead: dict[int, Future[Made]] = {}

    def get(self, step: int) -> Made:
        """Return what `make(step)` returns; raises what it raises."""
        made = self._ahead.pop(step, None)
        self._ahead.clear()
        result = self._make(step) if made is None else made.result()
        if step + 1 < self._num_steps:
            self._ahead[step + 1] = self._thread.submit(self._make, step + 1)
        return result
