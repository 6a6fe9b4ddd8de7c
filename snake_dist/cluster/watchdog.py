"""A watchdog that ends a stuck run in bounded time and names the rank that holds it up.

In a collective every rank waits for the one that is stuck, and none of them knows which one that is. So a thread of
each rank writes to a key-value store, beside the process group, that the rank runs and how far its main thread is.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from snake_dist.cluster.world import World, gather

STUCK_EXIT_CODE = 1


class Watchdog:
    """All ranks create it together, call `beat` wherever the main thread makes progress, and `close` at the end."""

    def __init__(self, world: World, timeout_s: float, on_stuck: Callable[[str], None]) -> None:
        """After `timeout_s` seconds without progress on any rank, each rank calls `on_stuck(reason)` and exits."""
        self._world, self._timeout_s, self._on_stuck = world, timeout_s, on_stuck
        self._interval_s = min(1.0, timeout_s / 8)
        self._beats = 0
        self._closed = threading.Event()
        # Rank -> (its last message, when this process saw it change, by its own clock).
        self._seen: dict[int, tuple[str, float]] = {}
        self._last_change = time.monotonic()
        self._other_rank_reports = False
        self._store: Any = None
        if world.size > 1:
            self._start()

    def beat(self) -> None:
        self._beats += 1

    def close(self) -> None:
        self._closed.set()

    def post_failure(self, reason: str) -> None:
        """Tell the other ranks that this one fails, and why."""
        if self._store is not None:
            self._store.set(f"{self._prefix}/failed/{self._world.rank}", reason)

    def explain(self) -> str | None:
        """Return why a collective just failed: the name of the silent rank. None if another rank reports it: the one
        that failed and knows why, or the first of those that still run.

        This takes a few seconds: a rank that died is recognized by its silence.
        """
        if self._store is None:
            return None
        deadline = time.monotonic() + 5 * self._interval_s
        while time.monotonic() < deadline:
            if self._other_rank_reports:
                return None
            time.sleep(self._interval_s / 4)
        self._closed.set()
        speaking = self._speaking(silent_after_s=3 * self._interval_s)
        is_mine = not speaking or self._world.rank == min(speaking)
        return self._verdict(silent_after_s=3 * self._interval_s) if is_mine else None

    def _start(self) -> None:
        import torch

        known = gather((secrets.token_hex(8), socket.gethostname()), self._world)
        self._prefix, self._hosts = f"watchdog/{known[0][0]}", [host for _, host in known]
        # A connection of its own: the process group's is busy while the main thread waits in it.
        self._store = torch.distributed.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=10),
        )
        self._write_beats()
        gather(None, self._world)  # now every rank's key exists
        self._last_change = time.monotonic()
        # Two threads: a store that hangs can block the one that asks it, but not the one that decides.
        threading.Thread(target=self._listen, name="watchdog-listen", daemon=True).start()
        threading.Thread(target=self._decide, name="watchdog-decide", daemon=True).start()

    def _write_beats(self) -> None:
        self._store.set(f"{self._prefix}/{self._world.rank}", f"{self._beats} {time.monotonic()}")

    def _listen(self) -> None:
        progress: dict[int, str] = {}
        ranks = range(self._world.size)
        keys = [f"{self._prefix}/{rank}" for rank in ranks]
        reasons = [f"{self._prefix}/failed/{rank}" for rank in ranks if rank != self._world.rank]
        while not self._closed.wait(self._interval_s):
            try:
                self._write_beats()
                messages = [message.decode() for message in self._store.multi_get(keys)]
                self._other_rank_reports = any(self._store.check([reason]) for reason in reasons)
            except Exception:  # no store: rank 0 or the launcher is gone or stuck, which _decide notices
                continue
            now = time.monotonic()
            for rank, message in enumerate(messages):
                if message != self._seen.get(rank, ("", 0.0))[0]:
                    self._seen[rank] = (message, now)
                beats = message.split()[0]
                if beats != progress.get(rank):
                    progress[rank], self._last_change = beats, now

    def _decide(self) -> None:
        while not self._closed.wait(self._interval_s / 2):
            if time.monotonic() - self._last_change > self._timeout_s:
                self._end()

    def _verdict(self, silent_after_s: float) -> str:
        now = time.monotonic()
        silent = [rank for rank, (_, when) in self._seen.items() if now - when > silent_after_s]
        cut = ", or the network to it is cut" if len(set(self._hosts)) > 1 else ""
        if len(silent) == len(self._seen):
            return f"the ranks' store does not answer: {self._names([0])} or the launcher is stopped or dead{cut}"
        if silent:
            return f"{self._names(silent)} stopped, hung or died{cut}: no sign of life for {silent_after_s:g} s"
        beats = {rank: int(message.split()[0]) for rank, (message, _) in self._seen.items()}
        behind = [rank for rank, count in beats.items() if count == min(beats.values())]
        if not behind or len(behind) == self._world.size:
            return "every rank waits in the same place"
        return f"{self._names(behind)} is alive and stuck: the others wait for it"

    def _names(self, ranks: list[int]) -> str:
        """Name the ranks, with their hosts where there are several."""
        several = len(set(self._hosts)) > 1
        return "rank " + " and ".join(f"{rank} on {self._hosts[rank]}" if several else str(rank) for rank in ranks)

    def _speaking(self, silent_after_s: float) -> list[int]:
        now = time.monotonic()
        return [rank for rank, (_, when) in self._seen.items() if now - when <= silent_after_s]

    def _end(self) -> None:
        verdict = self._verdict(silent_after_s=self._timeout_s / 2)
        reason = f"no rank made progress for {self._timeout_s:g} s: {verdict}{_flight_record(self._world.rank)}"
        self._on_stuck(reason)
        # The first rank that still runs prints the reason, the others exit silently.
        speaking = self._speaking(silent_after_s=self._timeout_s / 2)
        if not speaking or self._world.rank == min(speaking):
            print(f"error: {reason}", file=sys.stderr, flush=True)
        # The main thread waits inside a collective that nothing but the end of the process can leave.
        os._exit(STUCK_EXIT_CODE)


def _flight_record(rank: int) -> str:
    """Write what NCCL's flight recorder has of this rank's last collectives; return the words that say where."""
    import torch

    if not torch.distributed.is_nccl_available() or not torch.cuda.is_initialized():
        return ""
    path = Path(tempfile.gettempdir()) / f"nccl_trace_rank_{rank}"  # the name that PyTorch's own dumps have
    path.write_bytes(torch._C._distributed_c10d._dump_nccl_trace())
    return f"; NCCL's last collectives of each rank: {path.with_name('nccl_trace_rank_*')} on its node"
