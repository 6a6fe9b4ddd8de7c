"""Generated scripts on a real Slurm: what the traps of signals, ports, requeues and arrays do to a run.

The trainer is tests/support/stub_trainer.py here; test_real_slurm_training.py has the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snake_dist.errors import InputError
from snake_dist.verbs import submit as submit_verb
from tests.support import slurm_cluster
from tests.support.processes import ROOT, wait_until
from tests.support.slurm_cluster import Cluster


def with_stub(directory: Path) -> Path:
    """A directory to submit from, with the stub as its launcher/train.py."""
    (directory / "launcher").mkdir()
    shutil.copy(ROOT / "tests/support/stub_trainer.py", directory / "launcher/train.py")
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return with_stub(tmp_path)


def submit_py(slurm: Cluster, place: Path, *arguments: object, **variables: str) -> str:
    """What launcher/submit.py prints, called from `place` as a user does."""
    command = [sys.executable, ROOT / "launcher/submit.py", *arguments]
    env = slurm.environment | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run([*map(str, command)], cwd=place, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def set_stub(place: Path, steps: int = 10_000, **settings: Any) -> None:
    """Set what the stub does. Without `steps` it does not end by itself while a test, on a busy machine, acts on it."""
    (place / "stub.tmp").write_text(json.dumps({"steps": steps} | settings))
    (place / "stub.tmp").replace(place / "stub.json")


def submit(slurm: Cluster, place: Path, *flags: object, program: tuple[str, ...] = (), **settings: Any) -> str:
    """Queue a stub run from `place` with these settings; returns the job's id. Its run is place/job/run."""
    set_stub(place, **settings)
    flags = ("--job-name", "stub", "--directory", "job", "--cpus-per-rank", 1, *flags)
    printed = submit_py(slurm, place, *flags, *(("--", *program) if program else ()))
    return re.findall(r"^job (\d+) ", printed, re.MULTILINE)[-1]


def steps(place: Path, run: str = "run") -> list[int]:
    path = place / f"job/{run}.steps"
    return list(map(int, path.read_text().split())) if path.exists() else []


def wait_for_step(place: Path, step: int, run: str = "run") -> None:
    wait_until(lambda: steps(place, run)[-1:] >= [step], lambda: f"{steps(place, run)}\n{log_of(place)}")


def log_of(place: Path) -> str:
    return "\n".join(path.read_text() for path in (place / "job").glob("*.out"))


def ask_to_stop(slurm: Cluster, job: str) -> None:
    """What Slurm itself does --signal-before-s seconds before the time limit."""
    slurm.run("scancel", "--batch", "--signal=USR1", job)


def test_play_py_plays_one_comparison_on_two_nodes(slurm: Cluster, place: Path) -> None:
    shutil.copy(ROOT / "launcher/play.py", place / "launcher/play.py")
    flags = ("--job-name", "play", "--directory", "job", "--cpus-per-rank", 1, "--program", "launcher/play.py")
    games = ("--player", "greedy", "--games", 6, "--grid-size", 5, "--report", "report", "--no-ladder")
    job = submit_py(slurm, place, *flags, "--nodes", 2, "--", *games).split()[1]
    slurm.wait(job, "COMPLETED")
    assert log_of(place).count("apples per game") == 1
    assert len((place / "report/games/greedy.jsonl").read_text().splitlines()) == 6


def test_srun_alone_starts_ranks_that_meet(slurm: Cluster, place: Path) -> None:
    games = ("--player", "greedy", "--games", 6, "--grid-size", 5, "--report", place / "report", "--no-ladder")
    set_by_tests = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of runs in this process
    environment = {name: value for name, value in slurm.environment.items() if name not in set_by_tests}
    environment["PYTHONPATH"] = str(ROOT)
    command = ["srun", "-N", "1", "-n", "2", f"--chdir={place}", sys.executable, ROOT / "launcher/play.py", *games]
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("apples per game") == 1
    assert len((place / "report/games/greedy.jsonl").read_text().splitlines()) == 6


def hold_with_its_port(slurm: Cluster, place: Path) -> tuple[str, socket.socket]:
    """Queue place/script, held, and bind the first port that its job would take, which follows from the job's id."""
    while True:
        job = slurm.run("sbatch", "--parsable", "--hold", f"--chdir={place}", place / "script").strip()
        holder = socket.socket()
        try:
            holder.bind(("", 20000 + int(job) % 10000))
        except OSError:  # in use by another process: the next job's port
            holder.close()
            slurm.run("scancel", job)
        else:
            return job, holder


def test_a_run_on_two_nodes_outlives_its_time_limit_and_a_preemption(slurm, place):
    ranks = ("--nodes", 2, "--gpus-per-node", 2)
    set_stub(place)
    script = submit_py(
        slurm, place, "--job-name", "stub", "--directory", "job", "--cpus-per-rank", 1, *ranks, "--dry-run",
        "--", "--global-batch-size", 16,
    )  # fmt: skip
    (place / "job").mkdir()
    (place / "script").write_text(script)
    job, silent = hold_with_its_port(slurm, place)
    with silent:
        silent.listen()
        slurm.run("scontrol", "release", job)
        wait_for_step(place, 3)
    ask_to_stop(slurm, job)
    slurm.start_again(job, restarts=1)

    wait_for_step(place, steps(place)[-1] + 3)
    high = slurm.run(
        "sbatch", "--parsable", "--partition=high", "-N2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    ).strip()
    slurm.wait(high, "COMPLETED")
    num_steps = steps(place)[-1] + 5
    set_stub(place, num_steps)
    slurm.start_again(job, restarts=2)
    slurm.wait(job, "COMPLETED")

    assert steps(place) == list(range(num_steps))  # every step once, in three starts
    # torchrun lived on. One signalled rank stops all at one step, so a rank may end before its own signal comes.
    seen = {line for path in (place / "job").glob("run.signals.*") for line in path.read_text().splitlines()}
    assert seen == {"0 SIGUSR1", "1 SIGTERM"}
    log = log_of(place)
    assert log.count("queued again") == 2
    assert [line.split()[:2] for line in (place / "job/run.starts").read_text().splitlines()] == [
        [job, "0"], [job, "1"], [job, "2"],
    ]  # fmt: skip
    ports = [json.loads(line)["MASTER_PORT"] for line in (place / "job/run.environment").read_text().splitlines()]
    assert int(ports[0]) in [20000 + (int(job) + 101 * i) % 10000 for i in range(1, 100)]


@pytest.mark.slow
def test_slurm_itself_signals_before_the_time_limit(slurm, place):
    job = submit(slurm, place, "--time", 2, "--signal-before-s", 60)
    wait_until(lambda: slurm.facts(job)["Restarts"] == "1", lambda: log_of(place))
    assert json.loads((place / "job/run/status.json").read_text())["state"] == "stopped"
    assert "USR1: telling the workers to save" in log_of(place)
    slurm.run("scancel", job)


@pytest.mark.usefixtures("slurm")
def test_tear_down_in_the_middle_of_a_job_leaves_no_process_and_no_file():
    cluster = slurm_cluster.start()
    cluster.run("sbatch", "-N2", "--output=/dev/null", "--wrap=srun bash -c 'trap : TERM; sleep 300'")
    wait_until(lambda: len(cluster.processes("SLURM_STEP_ID=0")) >= 2, lambda: slurm_cluster.logs(cluster))
    slurm_cluster.stop(cluster)
    assert cluster.processes() == []
    assert not cluster.directory.exists()


def test_a_lost_node_brings_the_run_back_from_its_checkpoint(slurm, place):
    job = submit(slurm, place, "--nodes", 2, program=("--global-batch-size", "8"))
    wait_for_step(place, 3)
    nodes = slurm.facts(job)["NodeList"]
    assert nodes == "node[1-2]"
    slurm.kill_node("node2")
    slurm.wait(job, "PENDING", "NODE_FAIL")
    slurm.start_node("node2")
    set_stub(place, steps=10)
    slurm.start_again(job, restarts=1)
    slurm.wait(job, "COMPLETED")
    status = json.loads((place / "job/run/status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 10)


def a_killed_rank_ends_the_job_and_it_is_not_queued_again(slurm: Cluster, place: Path) -> None:
    ranks = ("--nodes", 2, "--ranks-per-node", 2)
    job = submit(slurm, place, *ranks, program=("--global-batch-size", "16"), sees_dead_peers=True)
    wait_for_step(place, 3)
    victim = int((place / "job/run.started.3").read_text().split()[1])
    os.kill(victim, signal.SIGKILL)
    facts = slurm.wait(job, "FAILED")
    assert facts["Restarts"] == "0"
    assert "connection closed by peer" in log_of(place)


def a_signal_that_comes_while_the_worker_still_starts_is_not_lost(slurm: Cluster, place: Path) -> None:
    job = submit(slurm, place, import_s=2)
    wait_until(lambda: (place / "job/run.started.0").exists(), lambda: log_of(place))
    ask_to_stop(slurm, job)
    slurm.start_again(job, restarts=1)
    assert steps(place)
    slurm.run("scancel", job)


def two_restarts_without_progress_are_the_end(slurm: Cluster, place: Path) -> None:
    job = submit(slurm, place, stands_still=True)
    for restart in range(3):
        wait_until((place / f"job/run.ranks/{restart}/0").exists, lambda: log_of(place))
        ask_to_stop(slurm, job)
        if restart < 2:
            slurm.start_again(job, restarts=restart + 1)
    assert slurm.wait(job, "FAILED")["Restarts"] == "2"
    assert "no progress in two restarts" in log_of(place)


def an_old_marker_does_not_queue_a_run_again_that_fails_at_its_start(slurm: Cluster, place: Path) -> None:
    (place / "job/run").mkdir(parents=True)
    (place / "job/run/status.json").write_text('{"state": "stopped", "step": 5, "checkpoint": null}\n')
    job = submit(slurm, place, exit_code=3)
    facts = slurm.wait(job, "FAILED")
    assert (facts["Restarts"], facts["ExitCode"]) == ("0", "3:0")  # one rank: its own exit code


def a_cancelled_job_saves_and_stays_cancelled(slurm: Cluster, place: Path) -> None:
    job = submit(slurm, place)
    wait_for_step(place, 2)
    slurm.run("scancel", job)
    slurm.wait(job, "CANCELLED")
    wait_until(lambda: json.loads((place / "job/run/status.json").read_text())["state"] == "stopped", str)
    time.sleep(1)
    assert slurm.facts(job)["JobState"] == "CANCELLED"
    assert slurm.facts(job)["Restarts"] == "0"


def one_task_of_an_array_is_queued_again_without_the_others_and_the_job_behind_waits(
    slurm: Cluster, place: Path
) -> None:
    (place / "launcher/aggregate.py").write_text(
        "import sys; from pathlib import Path\n"
        "print(sorted((p.parent.name, 'finished' in p.read_text()) for p in Path(sys.argv[1]).glob('*/status.json')))\n"
    )
    (place / "recipe.yaml").write_text(
        "job-name: stub\ndirectory: job\ncpus-per-rank: 1\nseeds: [0, 1]\n"
        "variants: ['small=--rank 4', 'large=--rank 8']\n"
        "---\njob-name: table\ndirectory: job\nafter: [stub]\nprogram: launcher/aggregate.py\nrun: [job/run]\n"
    )
    set_stub(place)
    printed = submit_py(slurm, place, "--recipe", "recipe.yaml")
    array, table = re.findall(r"^job (\d+) ", printed, re.MULTILINE)
    # The last task to start has the array's own id: requeued by that id, it would take the others with it.
    wait_for_step(place, 2, "run/large-seed-1")
    ids = {slurm.facts(f"{array}_{task}")["JobId"]: task for task in range(4)}
    last = ids[array]
    ask_to_stop(slurm, f"{array}_{last}")
    slurm.wait(f"{array}_{last}", "PENDING")
    set_stub(place, steps=5)
    for task in set(range(4)) - {last}:
        assert slurm.wait(f"{array}_{task}", "COMPLETED")["Restarts"] == "0"
    assert slurm.facts(table)["JobState"] == "PENDING"
    slurm.start_again(f"{array}_{last}", restarts=1)
    slurm.wait(table, "COMPLETED")
    names = ("large-seed-0", "large-seed-1", "small-seed-0", "small-seed-1")
    assert str([(name, True) for name in names]) in (place / f"job/{table}.out").read_text()


def a_job_gets_no_key_and_slurm_stores_none(slurm: Cluster, place: Path) -> None:
    job = submit_with_keys(slurm, place)
    slurm.wait(job, "COMPLETED")
    known = json.loads((place / "job/run.environment").read_text())
    assert "SECRET_TOKEN" not in known
    assert known["WANDB_MODE"] == "offline"
    assert known["GREETING"] == "it's $HOME"
    assert known["PATH"]  # SLURM_EXPORT_ENV has not stripped the step
    assert "SBATCH_EXPORT" not in known
    stored = [path for path in (slurm.directory / "state").rglob("*") if path.is_file()]
    assert stored
    assert not [path for path in stored if b"canary-7351" in path.read_bytes()]


def submit_with_keys(slurm: Cluster, place: Path) -> str:
    set_stub(place, steps=2)
    printed = submit_py(
        slurm, place, "--job-name", "stub", "--directory", "job", "--cpus-per-rank", 1,
        "--env", "WANDB_MODE", "GREETING=it's $HOME",
        SECRET_TOKEN="canary-7351", WANDB_API_KEY="canary-7351", WANDB_MODE="offline", SBATCH_EXPORT="ALL",
    )  # fmt: skip
    return re.findall(r"^job (\d+) ", printed, re.MULTILINE)[0]


def the_receipt_names_a_log_that_exists_a_status_that_answers_and_a_line_that_goes_on(
    slurm: Cluster, place: Path
) -> None:
    set_stub(place)
    receipt = submit_py(slurm, place, "--job-name", "stub", "--directory", "new/deep/job", "--cpus-per-rank", 1)
    job = receipt.split()[1]
    run = place / "new/deep/job/run"
    wait_until(lambda: (run / "metrics.jsonl").exists(), lambda: receipt)
    status = submit_py(slurm, place, "status", job)
    assert re.search(rf"job {job}  stub  RUNNING on node[12], restarts 0, 00:\d\d:\d\d of 04:00:00, log ", status)
    assert re.search(
        rf"run {run}  training, step \d+ of 10000, loss 0\.\d+, about 0:\d\d:\d\d left, checkpoints/", status
    )
    slurm.run("scancel", job)
    slurm.wait(job, "CANCELLED")
    wait_until(lambda: json.loads((run / "status.json").read_text())["state"] == "stopped", lambda: status)
    stopped = json.loads((run / "status.json").read_text())["step"]
    set_stub(place, stopped + 3)
    resume = re.search(r"resume +(.+)", receipt)[1].split()
    again = slurm.run(resume[0], "--parsable", f"--chdir={place}", place / resume[1]).strip()
    slurm.wait(again, "COMPLETED")
    assert f"finished, step {stopped + 3} of {stopped + 3}" in submit_py(slurm, place, "status", "new/deep/job")
    assert (place / f"new/deep/job/{again}.out").exists()


def hostile_flags_of_the_program_arrive_as_they_are(slurm: Cluster, place: Path) -> None:
    hostile = "$(touch pwned); `touch pwned` 'a\" b\\"
    (place / "launcher/aggregate.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    flags = ("--job-name", "stub", "--directory", "job", "--cpus-per-rank", 1, "--program", "launcher/aggregate.py")
    job = submit_py(slurm, place, *flags, "--", hostile).split()[1]
    slurm.wait(job, "COMPLETED")
    assert json.loads((place / f"job/{job}.out").read_text().splitlines()[-1]) == [hostile]
    assert not (place / "pwned").exists()


SCENARIOS = (
    a_killed_rank_ends_the_job_and_it_is_not_queued_again,
    a_signal_that_comes_while_the_worker_still_starts_is_not_lost,
    two_restarts_without_progress_are_the_end,
    an_old_marker_does_not_queue_a_run_again_that_fails_at_its_start,
    a_cancelled_job_saves_and_stays_cancelled,
    one_task_of_an_array_is_queued_again_without_the_others_and_the_job_behind_waits,
    a_job_gets_no_key_and_slurm_stores_none,
    the_receipt_names_a_log_that_exists_a_status_that_answers_and_a_line_that_goes_on,
    hostile_flags_of_the_program_arrive_as_they_are,
)


@pytest.fixture(scope="module")
def outcomes(slurm, tmp_path_factory) -> Iterator[dict[str, Future[None]]]:
    """Scenario -> what becomes of it. They mostly wait for Slurm: side by side, after the tests that need all nodes."""
    with ThreadPoolExecutor(len(SCENARIOS)) as threads:
        yield {
            scenario.__name__: threads.submit(scenario, slurm, with_stub(tmp_path_factory.mktemp("scenario")))
            for scenario in SCENARIOS
        }


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in SCENARIOS])
def test_on_one_cluster(outcomes, name):
    outcomes[name].result()


REFUSED = {
    "too many GPUs": (("--gpus-per-node", 9, "--", "--global-batch-size", 36), "configuration is not available"),
    "no such partition": (("--partition", "nosuch"), "invalid partition"),
    "a command in the name": (("--job-name", "x\ntouch pwned"), "--job-name"),
    "an option in the name": (("--job-name", "x --output=/tmp/pwned"), "--job-name"),
    "a command in the partition": (("--partition", "debug; touch pwned"), "--partition"),
    "a quote in the directory": (("--directory", 'a"\n#SBATCH --output=pwned'), "--directory"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("how", [(), ("--test-only",)])
def test_what_slurm_or_the_allow_list_refuses_is_an_input_error_and_nothing_is_queued(
    slurm, place, monkeypatch, name, how
):
    flags, reason = REFUSED[name]
    before = slurm.run("squeue", "-h", "-o", "%i")
    for variable, value in slurm.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match=reason):
        submit_verb.main(["--job-name", "stub", "--directory", "job", *how, *map(str, flags)])
    assert set(slurm.run("squeue", "-h", "-o", "%i").split()) <= set(before.split())
    assert not list(place.rglob("*pwned*"))


def test_test_only_says_when_the_job_would_start(slurm, place):
    printed = submit_py(slurm, place, "--job-name", "stub", "--directory", "job", "--test-only")
    assert re.search(r"Job \d+ to start at", printed)
    assert not (place / "job").exists()
