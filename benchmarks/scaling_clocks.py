"""Clocks, counters and memory of the processes of scaling.py."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snake_dist.training.metrics import Metrics, SilentLog


def memory_mib() -> dict[str, float]:
    """Memory of this process in MiB: its own now, mapped files now, the highest of both together."""
    names = {"RssAnon": "own", "RssFile": "mapped", "VmHWM": "peak"}
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {short: int(fields[name].split()[0]) / 1024 for name, short in names.items()}


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Clocks:
    """Seconds by name, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return timed


class StepLog(SilentLog):
    """Passes what is logged to a function, on every rank."""

    def __init__(self, at_step: Callable[[int, Metrics], None]) -> None:
        self._at_step = at_step

    def log(self, step: int, metrics: Metrics) -> None:
        self._at_step(step, metrics)


@contextmanager
def counting_collectives() -> Iterator[dict[str, Counter[str]]]:
    """{"bytes": by kind of collective (whole messages), "calls": by kind} of everything inside, filled while it runs.

    Counted where PyTorch dispatches them, whoever calls: DeepSpeed, this package, pickled objects.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    counts: dict[str, Counter[str]] = {"bytes": Counter(), "calls": Counter()}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(operation)
            if name.startswith("c10d.") and "barrier" not in name:
                kind = name.split(".")[1]
                sizes = [t.numel() * t.element_size() for t in tree_iter(args) if isinstance(t, torch.Tensor)]
                # The whole message is the largest tensor that the call is given, or the parts together.
                counts["bytes"][kind] += max(max(sizes), sum(sizes) - min(sizes))
                counts["calls"][kind] += 1
            return operation(*args, **(kwargs or {}))

    with Count():
        yield counts
