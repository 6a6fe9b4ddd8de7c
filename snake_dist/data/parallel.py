"""A map over many processes that yields results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """Yield function(task) for each task, in order, with `workers` spawned processes; in this process for 1.

    At most 2 * workers tasks begin before the first result is taken. An exception of a task is raised here. Then, and
    when the generator is closed, the workers stop at once. Function and tasks are pickled, and a script that calls this
    needs its `if __name__ == "__main__"` guard.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    not_ours = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    pending: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(function, task))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BaseException:
        # Left alone, an executor waits for what is running, and one game may take minutes.
        for worker in set(multiprocessing.active_children()) - not_ours:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and die with it: an executor's worker would wait for tasks for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
