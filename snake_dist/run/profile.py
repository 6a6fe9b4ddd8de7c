"""`--profile`: a trace of a few steps of every rank, for Perfetto."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from snake_dist.errors import InputError


def profiled_steps(text: str, num_steps: int) -> tuple[int, int]:
    """Return the first and the last step of FIRST-LAST. Raises InputError."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last <= num_steps:
        raise InputError(f"--profile {text}: FIRST-LAST is expected, as in 3-5, from 1 to the run's {num_steps} steps")
    return first, last


@contextmanager
def profiled(steps: tuple[int, int] | None, num_done: int, path: Path) -> Iterator[Callable[[int], None]]:
    """Yield what a rank calls with the number of steps done; inside the block it profiles `steps`, first and last.

    Writes `path` when the last of them is done, or when the block ends before. `num_done`: steps before the block.
    """
    if steps is None:
        yield lambda _done: None
        return
    from torch.profiler import profile

    first, last = steps
    if first <= num_done:
        print(f"warning: --profile {first}-{last}: not written, {num_done} steps are done", file=sys.stderr)
    profiler = profile()
    is_on = False

    def end() -> None:
        nonlocal is_on
        if is_on:
            is_on = False
            profiler.stop()
            path.parent.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(path))

    def after_step(done: int) -> None:
        nonlocal is_on
        if done == last:
            end()
        if done == first - 1:
            profiler.start()
            is_on = True

    after_step(num_done)
    try:
        yield after_step
    finally:
        end()
