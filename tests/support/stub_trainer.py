"""A trainer of plain Python that keeps the contract of launcher/train.py: signals set a flag, all ranks stop at one
step, the checkpoint comes before the marker. What it is to do stands in stub.json where it runs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

SETTINGS = json.loads(Path("stub.json").read_text())
RUN = Path(sys.argv[sys.argv.index("--output-dir") + 1])
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
RESTART = os.environ.get("SLURM_RESTART_COUNT", "0")
asked = False


def note(name: str, line: object) -> None:
    with (RUN.parent / f"{RUN.name}.{name}").open("a") as file:
        file.write(f"{line}\n")


def on_signal(number: int, _frame: object) -> None:
    global asked
    asked = True
    note(f"signals.{RANK}", f"{RESTART} {signal.Signals(number).name}")


def all_reduce(step: int) -> bool:
    """Whether any rank was asked to stop; every rank waits for all, and gives up on a dead one as gloo does."""
    meeting = RUN.parent / f"{RUN.name}.ranks/{RESTART}/{step}"
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / f"{RANK}.tmp").write_text(str(int(asked)))
    (meeting / f"{RANK}.tmp").rename(meeting / str(RANK))
    end = time.monotonic() + (SETTINGS.get("peer_timeout_s", 60) if step else 60)
    while not all((meeting / str(rank)).exists() for rank in range(WORLD)):
        if time.monotonic() > end:
            sys.exit(f"rank {RANK}: connection closed by peer at step {step}")
        time.sleep(0.01)
    return any((meeting / str(rank)).read_text() == "1" for rank in range(WORLD))


def save(step: int, state: str) -> None:
    if RANK == 0:
        name = f"checkpoints/step-{step:08d}"
        (RUN / name).mkdir(parents=True, exist_ok=True)
        status = {"state": state, "step": step, "num_steps": SETTINGS["steps"], "checkpoint": name, "reason": None}
        (RUN / "status.tmp").write_text(json.dumps(status | {"updated": time.time()}, indent=2))
        (RUN / "status.tmp").rename(RUN / "status.json")


def main() -> None:
    RUN.parent.mkdir(parents=True, exist_ok=True)
    note(f"started.{RANK}", f"{RESTART} {os.getpid()}")
    if RANK == 0:
        note("environment", json.dumps(dict(os.environ)))
    time.sleep(SETTINGS.get("import_s", 0))
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, on_signal)
    if "exit_code" in SETTINGS:
        sys.exit(SETTINGS["exit_code"])
    first = max([int(path.name[5:]) for path in RUN.glob("checkpoints/step-*")], default=0)
    save(first, "training")
    for step in range(first, SETTINGS["steps"]):
        time.sleep(SETTINGS.get("step_s", 0.1))
        stop = all_reduce(step)
        done = first if SETTINGS.get("stands_still") else step + 1
        if RANK == 0:
            note("steps", step)
            with (RUN / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": done, "train/loss": 1.0 / (done + 1)}) + "\n")
        if stop:
            save(done, "stopped")
            return
    save(SETTINGS["steps"], "finished")


main()
