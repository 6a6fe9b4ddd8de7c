"""A trainer of plain Python that keeps the contract of launcher/train.py: signals set a flag, all ranks stop at one
step, the checkpoint comes before the marker. Its settings are stub.json in the current directory. `steps` is read
before every step (change it while several ranks run, and they disagree), the others at the start.
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
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
asked = False


def note(name: str, line: object) -> None:
    with (RUN.parent / f"{RUN.name}.{name}").open("a") as file:
        file.write(f"{line}\n")


def num_steps() -> int:
    return json.loads(Path("stub.json").read_text())["steps"]


def on_signal(number: int, _frame: object) -> None:
    global asked
    asked = True
    note(f"signals.{RANK}", f"{RESTART} {signal.Signals(number).name}")


def all_reduce(step: int) -> bool:
    """Whether any rank was asked to stop; every rank waits for all.

    With `sees_dead_peers` it fails when one has died, as gloo does: a process that dies closes its connections, a
    machine that loses power does not.
    """
    meeting = RUN.parent / f"{RUN.name}.ranks/{RESTART}/{step}"
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / f"{RANK}.tmp").write_text(str(int(asked)))
    (meeting / f"{RANK}.tmp").rename(meeting / str(RANK))
    for rank in range(WORLD):
        while not (meeting / str(rank)).exists():
            # Looked for once more: it may have written its file and ended in between.
            if SETTINGS.get("sees_dead_peers") and is_dead(rank) and not (meeting / str(rank)).exists():
                sys.exit(f"rank {RANK}: connection closed by peer at step {step}")
            time.sleep(0.01)
    return any((meeting / str(rank)).read_text() == "1" for rank in range(WORLD))


def is_dead(rank: int) -> bool:
    """Whether the rank of this start has ended; False if it has not started yet."""
    path = RUN.parent / f"{RUN.name}.started.{rank}"
    starts = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
    if RESTART not in starts:
        return False
    try:
        return Path(f"/proc/{starts[RESTART]}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def save(step: int, state: str) -> None:
    if RANK == 0:
        name = f"checkpoints/step-{step:08d}"
        (RUN / name).mkdir(parents=True, exist_ok=True)
        status = {"state": state, "step": step, "num_steps": num_steps(), "checkpoint": name, "reason": None}
        (RUN / "status.tmp").write_text(json.dumps(status | {"updated": time.time()}, indent=2))
        (RUN / "status.tmp").rename(RUN / "status.json")


def main() -> None:
    RUN.parent.mkdir(parents=True, exist_ok=True)
    note(f"started.{RANK}", f"{RESTART} {os.getpid()}")
    if RANK == 0:
        note("environment", json.dumps(dict(os.environ)))
    time.sleep(SETTINGS.get("import_s", 0))
    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)
    if "exit_code" in SETTINGS:
        sys.exit(SETTINGS["exit_code"])
    step = max([int(path.name[5:]) for path in RUN.glob("checkpoints/step-*")], default=0)
    save(step, "training")
    stop = False
    while not stop and step < num_steps():
        time.sleep(SETTINGS.get("step_s", 0.1))
        stop = all_reduce(step)
        if RANK == 0:
            note("steps", step)
            with (RUN / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step + 1, "train/loss": 1.0 / (step + 2)}) + "\n")
        step += 1
    save(0 if SETTINGS.get("stands_still") else step, "stopped" if stop else "finished")
    # As train.py: a signal that comes late (USR1 comes again, TERM reaches the nodes one by one) ends no rank.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


main()
