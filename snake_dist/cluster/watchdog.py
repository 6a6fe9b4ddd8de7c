"""A watchdog that ends a stuck run in bounded time and names the rank that holds it up.

In a collective every rank waits for the one that is stuck, and none of them knows which one that is. So a thread of
each rank writes to a key-value store, beside the process group, that the rank runs and how far its main thread is.
A rank that stopped, or whose network is cut, is silent: that ends the run at any time. A rank that lives may work for
hours while the others wait, and only where it should not does `watch_progress` bound that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from snake_dist.cluster.world import World, gather
from snake_dist.errors import InputError, RankError

STUCK_EXIT_CODE = 1
LAST_WORDS_S = 10.0
"""A disk that hangs must not keep a stuck run from its end for longer."""


class Watchdog:
    """All ranks create it together, as soon as they have met, and `leave` at the end."""

    def __init__(self, world: World, timeout_s: float) -> None:
        """Each rank calls `on_stuck(reason)` and exits after `timeout_s` seconds without a sign of life of one."""
        self.world, self._timeout_s = world, timeout_s
        self.on_stuck: Callable[[str], None] = lambda _reason: None
        self._interval_s = min(1.0, timeout_s / 8)
        self._beats = 0
        self._watches_progress = False
        self._closed = threading.Event()
        # Rank -> (its last message, when this process saw it change, by its own clock).
        self._seen: dict[int, tuple[str, float]] = {}
        self._last_change = time.monotonic()
        self._other_rank_reports = False
        self._a_rank_left = False
        self._store: Any = None
        if world.size > 1:
            self._start()

    def beat(self) -> None:
        """Tell the other ranks that this one's main thread makes progress."""
        self._beats += 1

    def watch_progress(self, is_watched: bool) -> None:
        """Whether `timeout_s` seconds without progress on any rank end the run from now on, too."""
        self._last_change = time.monotonic()
        self._watches_progress = is_watched

    def close(self) -> None:
        """Stop watching, at a failure: the other ranks will notice."""
        self._closed.set()

    def leave(self) -> None:
        """Stop watching, at a good end: the other ranks may work on."""
        if self._store is not None and not self._closed.is_set():
            with contextlib.suppress(RuntimeError):  # rank 0, or the launcher, left before
                self._store.set(self._key(), f"{self._beats} left")
        self.close()

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Name the lost rank where the block fails because of it, and stop watching where it fails."""
        try:
            yield
        except BaseException as problem:
            error = self.explained(problem)
            self.close()
            if error is problem:
                raise
            raise error from problem

    def explained(self, problem: BaseException, place: str = "") -> BaseException:
        """Return `problem`, or for a lost connection a RankError that names the lost rank, on the rank that says it.

        The others, which lose their connection to this rank, receive any other error of it alone. Of one that all
        ranks raise alike, bad input or a full disk, rank 0's alone keeps its message.
        """
        if self.world.size == 1 or self._closed.is_set() or not isinstance(problem, Exception):
            return problem
        if isinstance(problem, RuntimeError) and _is_lost_connection(problem):
            reason = self._explain()
            return RankError(f"{place}{reason}" if reason else "")
        with contextlib.suppress(RuntimeError):  # the store may have gone with its rank
            is_same = self._rank_0_says(f"{type(problem).__name__}: {problem}")
            if is_same and not self.world.is_main and not isinstance(problem, RankError):
                if isinstance(problem, InputError):
                    return type(problem)("")
                return RankError("") if isinstance(problem, OSError) else problem
        return problem

    def _rank_0_says(self, text: str) -> bool:
        """Tell the other ranks of this one's failure; return whether every rank fails, and rank 0 with this text.

        Where not all of them fail it takes long enough for the others to hear of it: this process may have the store.
        """
        if not self._all_tell("failed", text):
            return False
        is_same = self._store.get(f"{self._prefix}/failed/0").decode() == text
        # Rank 0's process must not end before; it may once all have told.
        with contextlib.suppress(RuntimeError):
            self._all_tell("heard", "")
        return is_same

    def _all_tell(self, what: str, text: str) -> bool:
        """Tell `what` of this rank; return whether all ranks do so within a few seconds."""
        self._store.set(f"{self._prefix}/{what}/{self.world.rank}", text)
        keys = [f"{self._prefix}/{what}/{rank}" for rank in range(self.world.size)]
        deadline = time.monotonic() + 2 * self._interval_s
        while not self._store.check(keys):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _explain(self) -> str | None:
        """Return why a collective just failed: the name of the silent rank. None if another rank reports it: the one
        that failed and knows why, or the first of those that still run.

        This takes a few seconds: a rank that died is recognized by its silence.
        """
        deadline = time.monotonic() + 5 * self._interval_s
        while time.monotonic() < deadline:
            if self._other_rank_reports:
                return None
            time.sleep(self._interval_s / 4)
        self.close()
        speaking = self._speaking(silent_after_s=3 * self._interval_s)
        is_mine = not speaking or self.world.rank == min(speaking)
        return self._verdict(silent_after_s=3 * self._interval_s) if is_mine else None

    def _start(self) -> None:
        import torch

        known = gather((secrets.token_hex(8), socket.gethostname()), self.world)
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
        gather(None, self.world)  # now every rank's key exists
        self._last_change = time.monotonic()
        self._seen = dict.fromkeys(range(self.world.size), ("", self._last_change))
        # Two threads: a store that hangs can block the one that asks it, but not the one that decides.
        threading.Thread(target=self._listen, name="watchdog-listen", daemon=True).start()
        threading.Thread(target=self._decide, name="watchdog-decide", daemon=True).start()

    def _write_beats(self) -> None:
        self._store.set(self._key(), f"{self._beats} {time.monotonic()}")

    def _key(self) -> str:
        return f"{self._prefix}/{self.world.rank}"

    def _listen(self) -> None:
        progress: dict[int, str] = {}
        ranks = range(self.world.size)
        keys = [f"{self._prefix}/{rank}" for rank in ranks]
        reasons = [f"{self._prefix}/failed/{rank}" for rank in ranks if rank != self.world.rank]
        while not self._closed.wait(self._interval_s):
            try:
                self._write_beats()
                messages = [message.decode() for message in self._store.multi_get(keys)]
                self._other_rank_reports = any(self._store.check([reason]) for reason in reasons)
            except Exception:  # no store: rank 0 or the launcher is gone or stuck, which _decide notices
                continue
            now = time.monotonic()
            for rank, message in enumerate(messages):
                if message != self._seen[rank][0]:
                    self._seen[rank] = (message, now)
                self._a_rank_left = self._a_rank_left or message.endswith(" left")
                beats = message.split()[0]
                if beats != progress.get(rank):
                    progress[rank], self._last_change = beats, now

    def _decide(self) -> None:
        while not self._closed.wait(self._interval_s / 2):
            stuck_for = time.monotonic() - self._last_change
            if self._watches_progress and stuck_for > self._timeout_s:
                self._end(f"no rank made progress for {self._timeout_s:g} s: ", silent_after_s=self._timeout_s / 2)
            elif not self._a_rank_left and len(self._speaking(self._timeout_s)) < self.world.size:
                self._end("", silent_after_s=self._timeout_s)

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
        if not behind or len(behind) == self.world.size:
            return "every rank waits in the same place"
        return f"{self._names(behind)} is alive and stuck: the others wait for it"

    def _names(self, ranks: list[int]) -> str:
        """Name the ranks, with their hosts where there are several."""
        several = len(set(self._hosts)) > 1
        return "rank " + " and ".join(f"{rank} on {self._hosts[rank]}" if several else str(rank) for rank in ranks)

    def _speaking(self, silent_after_s: float) -> list[int]:
        now = time.monotonic()
        return [rank for rank, (_, when) in self._seen.items() if now - when <= silent_after_s]

    def _end(self, what: str, silent_after_s: float) -> None:
        try:
            reason = f"{what}{self._verdict(silent_after_s)}{_flight_record(self.world.rank)}"
            self._say(reason)
            # The first rank that still runs prints the reason, the others exit silently.
            speaking = self._speaking(silent_after_s)
            if not speaking or self.world.rank == min(speaking):
                print(f"error: {reason}", file=sys.stderr, flush=True)
        finally:
            # The main thread waits inside a collective that nothing but the end of the process can leave.
            os._exit(STUCK_EXIT_CODE)

    def _say(self, reason: str) -> None:
        def say() -> None:
            with contextlib.suppress(OSError):  # a full disk
                self.on_stuck(reason)

        teller = threading.Thread(target=say, daemon=True)
        teller.start()
        teller.join(LAST_WORDS_S)


def _flight_record(rank: int) -> str:
    """Write what NCCL's flight recorder has of this rank's last collectives; return the words that say where."""
    import torch

    if not torch.distributed.is_nccl_available() or not torch.cuda.is_initialized():
        return ""
    path = Path(tempfile.gettempdir()) / f"nccl_trace_rank_{rank}"  # the name that PyTorch's own dumps have
    try:
        path.write_bytes(torch._C._distributed_c10d._dump_nccl_trace())
    except OSError as problem:
        return f"; NCCL's last collectives could not be written ({problem})"
    return f"; NCCL's last collectives of each rank: {path.with_name('nccl_trace_rank_*')} on its node"


def _is_lost_connection(problem: RuntimeError) -> bool:
    import torch

    if isinstance(problem, (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)):
        return True
    text = str(problem)
    return any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset", "NCCL"))
