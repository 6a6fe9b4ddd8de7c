"""A soak: programs that are killed, cut off, filled up and doubled at seeded moments, started again until they end.

Each kind of job says how it is started, what may go wrong with it, and what an untouched one ended as.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.support.faults import replace
from tests.support.hosts import Hosts, join_network, set_link
from tests.support.processes import environment, launcher
from tests.support.run_checks import adapter_hash, status_of
from tests.support.runs import logged
from tests.support.train_ranks import Ranks, errors_of
from tests.support.wandb_server import KEY, WandbServer

RANK_TIMEOUT_S = 10
LONGEST_END_S = 180.0
"""After any fault every process has ended by then."""
PLAY_FAULTS = ("kill one", "kill all", "stop", "freeze", "cut", "full disk", "second run", "none")
TRAIN_FAULTS = (*PLAY_FAULTS, "W&B away")
CLIMB_FAULTS = ("kill all", "stop", "full disk", "second run", "none")
DISK_BYTES = 24 << 20


@dataclass
class Soak:
    """What a soak has and has seen."""

    both: Hosts
    directory: Path
    moments: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    number: int = 0

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    @contextmanager
    def new_place(self) -> Iterator[Path]:
        """A directory for the next job, on a disk of its own that is small."""
        self.number += 1
        place = self.directory / f"{self.number:04d}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


class Processes:
    """The processes of one session of a job: ranks on both hosts, or one program with its children."""

    def __init__(
        self, ranks: Ranks | None = None, popen: subprocess.Popen[bytes] | None = None, log: Path | None = None
    ):
        self.ranks, self.popen, self.log = ranks, popen, log

    def wait(self, timeout_s: float) -> list[int | None]:
        if self.ranks is not None:
            return self.ranks.wait(timeout_s)
        assert self.popen is not None
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout_s)
        return [self.popen.returncode]

    def signal(self, which: int, number: int) -> None:
        with suppress(ProcessLookupError, TypeError):
            if self.ranks is not None:
                self.ranks.signal(which, number)
            else:
                os.killpg(self.popen.pid, number)

    def printed(self) -> str:
        return self.ranks.printed() if self.ranks is not None else self.log.read_text(errors="replace")

    def end(self) -> None:
        if self.ranks is not None:
            self.ranks.__exit__()
        else:
            self.signal(0, signal.SIGKILL)
            self.popen.wait()


@dataclass
class Job:
    """One kind of work; `start` begins a session of it in `place`, `check` compares what it left there."""

    name: str
    faults: tuple[str, ...]
    longest_s: float
    """A fault comes within this many seconds from the start of a session."""
    flags: Any
    """place -> the program's flags."""
    check: Any
    """place -> None; raises AssertionError unless the outcome equals the untouched one's."""
    program: str
    result: str
    """This file below `place` is the last that the job writes."""
    on_hosts: bool = True
    injected: tuple[Any, ...] = ()

    def has_ended(self, place: Path) -> bool:
        path = place / self.result
        return path.exists() and (path.name != "status.json" or status_of(path.parent)["state"] == "finished")

    def start(self, soak: Soak, place: Path, logs: Path) -> Processes:
        if self.on_hosts:
            slowly = [(rank, *fault) for fault in self.injected for rank in (0, 1)]
            faults = [*soak.both.places(), *slowly]
            return Processes(Ranks(self.flags(place), 2, logs, faults, program=self.program).__enter__())
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / "log"
        with log.open("wb") as file:
            command = [*launcher(self.program), *self.flags(place)]
            popen = subprocess.Popen(
                command, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        return Processes(popen=popen, log=log)


def run_one(soak: Soak, job: Job, wandb: WandbServer, max_faults: int) -> None:
    """Start the job again and again, with a fault in each session but the last; check what it ends as."""
    with soak.new_place() as place:
        for session in range(100):
            fault = soak.moments.choice(job.faults) if session < max_faults else "none"
            moment = soak.moments.uniform(0, job.longest_s)
            logs = soak.directory / f"logs-{soak.number:04d}-{session}"
            soak.both.plug_in()
            if not wandb.is_up:
                start_on(soak.both.alpha.pid, wandb)
            started = time.monotonic()
            codes, printed = _session(soak, job, wandb, place, logs, fault, moment)
            soak.counts[f"{job.name}: {fault}"] += 1
            took = time.monotonic() - started
            soak.say(f"{job.name} {soak.number} session {session}: {fault} at {moment:.1f} s, {codes} in {took:.0f} s")
            soak.say("".join(f"    {error}\n" for error in errors_of(printed)).rstrip() or "    no error")
            _check_session(fault, codes, printed)
            if all(code == 0 for code in codes) and job.has_ended(place):
                job.check(place)
                soak.counts[f"{job.name}: ends equal"] += 1
                shutil.rmtree(place, ignore_errors=True)
                return
            assert fault != "none", f"untouched, it did not end: {codes}\n{printed}"
    raise AssertionError("100 sessions")


def _session(
    soak: Soak, job: Job, wandb: WandbServer, place: Path, logs: Path, fault: str, moment: float
) -> tuple[list[int | None], str]:
    """Exit codes, and what was printed, of a session in which the fault comes at the moment."""
    which = soak.moments.choice((0, 1))
    processes = job.start(soak, place, logs)
    filler, second = place / "filler", None
    try:
        codes = processes.wait(600 if fault == "none" else moment)
        if None in codes:
            if fault in ("kill one", "kill all", "stop", "freeze"):
                number = {"stop": signal.SIGTERM, "freeze": signal.SIGSTOP}.get(fault, signal.SIGKILL)
                for rank in (0, 1) if fault == "kill all" else (which,):
                    processes.signal(rank, number)
            elif fault == "cut":
                set_link("down", (soak.both.alpha, soak.both.beta)[which].command())
            elif fault == "full disk":
                fill(filler)
            elif fault == "W&B away":
                wandb.stop()
            elif fault == "second run":
                second = job.start(soak, place, logs.with_name(f"{logs.name}-second"))
                second.wait(LONGEST_END_S)
            if fault == "freeze":  # the frozen one itself cannot end
                end = time.monotonic() + LONGEST_END_S
                while processes.wait(0.1).count(None) == 2 and time.monotonic() < end:
                    pass
                assert processes.wait(0.1).count(None) < 2, f"{fault}: both still run\n{processes.printed()}"
                processes.signal(which, signal.SIGKILL)
            codes = processes.wait(LONGEST_END_S)
        assert None not in codes, f"{fault}: still running after {LONGEST_END_S} s\n{processes.printed()}"
        if second is not None:
            return _of_the_one_that_ran((codes, processes.printed()), (second.wait(1), second.printed()))
        return codes, processes.printed()
    finally:
        processes.end()
        if second is not None:
            second.end()
        filler.unlink(missing_ok=True)


def _of_the_one_that_ran(*both: tuple[list[int | None], str]) -> tuple[list[int | None], str]:
    """Of two that were after one directory: at most one is refused, in one line; return the other one's outcome."""
    refused = [printed for codes, printed in both if set(codes) == {2}]
    for printed in refused:
        [error] = errors_of(printed)
        assert "another run is using it" in error, printed
    ran = [outcome for outcome in both if set(outcome[0]) != {2}]
    assert ran, both
    return ran[0]


def _check_session(fault: str, codes: list[int | None], printed: str) -> None:
    """No traceback and no more errors than hosts that cannot talk to each other."""
    assert "Traceback" not in printed, printed
    if fault in ("none", "W&B away", "second run"):
        assert set(codes) == {0}, printed
    errors = errors_of(printed)
    assert len(errors) <= (2 if fault in ("cut", "kill one", "freeze") else 1), printed
    if fault == "full disk" and errors:
        assert "No space left" in errors[0], printed


def fill(path: Path) -> None:
    """Take all that is left of the disk."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * (1 << 16))


def start_on(pid: int, wandb: WandbServer) -> None:
    """Start the service on the host: it listens where a thread that joined its network opened the port."""

    def begin() -> None:
        join_network(pid)
        wandb.start()

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()


def impatient(wandb_port: int) -> None:
    """On a rank: little patience, and an account with the service on this host."""
    from snake_dist.cluster import world
    from snake_dist.training import wandb_log
    from snake_dist.verbs import play

    replace(world, "RENDEZVOUS_TIMEOUT", timedelta(seconds=2 * RANK_TIMEOUT_S))
    replace(play, "RANK_TIMEOUT_S", float(RANK_TIMEOUT_S))
    os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{wandb_port}", WANDB_API_KEY=KEY)
    replace(wandb_log, "INIT_TIMEOUT_S", 3.0)


def games_under(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Every log of games below it, without what differs from one time to the next."""
    found = {}
    for path in sorted(directory.rglob("games/*.jsonl")):
        games = [json.loads(line) for line in path.read_text().splitlines()]
        for game in games:
            del game["ms"]
        found[str(path.relative_to(directory))] = sorted(games, key=lambda game: game["seed"])
    return found


def check_run(run: Path, oracle: Path, wandb: WandbServer) -> None:
    """Losses, norms, held-out losses, every game and the adapter are those of the untouched run, to the bit.

    What reached W&B is the untouched run's; what it was away for waits for `wandb sync`.
    """
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert logged(run, metric) == logged(oracle, metric), metric
    assert adapter_hash(run) == adapter_hash(oracle)
    assert status_of(run)["state"] == "finished"
    assert games_under(run) == games_under(oracle)
    known = wandb.runs.get(json.loads((run / "run.json").read_text())["wandb_run_id"])
    losses = logged(oracle, "train/loss")
    for step, loss in known.series("train/loss") if known is not None else ():
        assert loss == losses[step - 1], step
