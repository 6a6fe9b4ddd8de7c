"""Where a run's numbers go besides metrics.jsonl: each sink on a thread of its own, so that none can stop training."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOSE_TIMEOUT_S = 120.0
"""How long the end of a run waits for its sinks."""


@dataclass(frozen=True)
class Artifact:
    """Files of a run that have a name and versions; without files, what is known of its input."""

    name: str
    type: str
    """model, report or dataset."""
    metadata: dict[str, Any]
    path: Path | None = None
    """Their directory; None: an input, which is elsewhere."""
    aliases: tuple[str, ...] = ()


class Sink:
    """What takes a run's numbers. One thread makes all calls, in their order; what a call raises ends the sink."""

    upload_command: str | None = None
    """The command that uploads later what the sink could not."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics of one step."""

    def log_page(self, step: int, page: Path) -> None:
        """Show a self-contained HTML file as the panel `report`."""

    def log_artifact(self, artifact: Artifact) -> None:
        """Keep the artifact. A failure is said in one line and ends nothing: the files stay where they are."""

    def close(self) -> None:
        """Return when everything has arrived."""


class SinkThread:
    """Passes a run's numbers to one sink. A failure prints one line on stderr; metrics.jsonl stays complete."""

    def __init__(self, name: str, open_sink: Callable[[], Sink]) -> None:
        """`open_sink` is called on the thread."""
        self._name, self._open_sink = name, open_sink
        self._sink: Sink | None = None
        self._calls: queue.SimpleQueue[Callable[[Sink], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def call(self, call: Callable[[Sink], None]) -> None:
        """Have `call(sink)` run after all earlier calls; do not wait for it."""
        self._calls.put(call)

    def _work(self) -> None:
        try:
            self._sink = self._open_sink()
            while (call := self._calls.get()) is not None:
                call(self._sink)
            self._sink.close()
        except Exception as problem:  # whatever a sink raises, training continues: metrics.jsonl is complete
            reason = " ".join(str(problem).split())
            self._say(f"stopped logging ({type(problem).__name__}: {reason[:200]})")

    def _say(self, text: str) -> None:
        command = self._sink and self._sink.upload_command
        print(
            f"{self._name} {text}{f': upload later with `{command}`' if command else ''}", file=sys.stderr, flush=True
        )

    def end(self) -> None:
        """Take no more calls."""
        self._calls.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait until the sink is closed, at most `timeout_s`."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._say("did not finish in time")


def close_all(threads: Sequence[SinkThread], timeout_s: float | None = None) -> None:
    """Close all sinks, at once, and wait for them, at most `timeout_s` together."""
    for thread in threads:
        thread.end()
    deadline = time.monotonic() + (CLOSE_TIMEOUT_S if timeout_s is None else timeout_s)
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
