"""The run without Slurm: this machine through torchrun, deepspeed or plain python; a hostfile; one line for faults."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from snake_dist.cluster import local
from snake_dist.cluster.job import Job
from snake_dist.cluster.local import commands_for
from snake_dist.errors import InputError
from tests.support.processes import ROOT, TIMEOUT_S, environment, launcher, run_program, wait_until

SUBMIT = [*launcher("submit"), "--job-name", "here", "--directory", "job"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory to run in, with the stub trainer as its launcher/train.py."""
    (tmp_path / "launcher").mkdir()
    shutil.copy(ROOT / "tests/support/stub_trainer.py", tmp_path / "launcher/train.py")
    (tmp_path / "stub.json").write_text('{"steps": 3, "step_s": 0}')
    return tmp_path


WAYS = {
    "torchrun": ("--local", "--ranks-per-node", "2"),
    "array": ("--local", "--seeds", "0", "1"),
    "deepspeed": ("--local", "--ranks-per-node", "2", "--launcher", "deepspeed"),
    "hostfile": ("--hostfile", "hosts", "--nodes", "2", "--launcher", "deepspeed"),
}
# Stand-ins that run here what ssh and pdsh would run on the hosts; pdsh puts the host's number for %n.
SSH = '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift 2; done\nshift\neval "$@"\n'
PDSH = """#!/bin/bash
while [[ $1 == -* ]]; do case $1 in -w) IFS=, read -ra hosts <<< "$2"; shift 2 ;; -S) shift ;; *) shift 2 ;; esac; done
for n in "${!hosts[@]}"; do bash -c "$(printf '%s ' "${@//%n/$n}")" & done
wait
"""


@pytest.mark.parametrize(
    "way", ["torchrun", "array", *(pytest.param(w, marks=pytest.mark.slow) for w in list(WAYS)[2:])]
)
def test_every_way_runs_the_program_to_its_end(place, way):
    (place / "hosts").write_text("# the machines\nlocalhost slots=1\n127.0.0.1 slots=1\n")
    for name, text in (("ssh", SSH), ("pdsh", PDSH)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    done = run_program([*SUBMIT, *WAYS[way]], place, PATH=f"{place}:{environment()['PATH']}")
    assert done.returncode == 0, done.stderr[-2000:]
    for run in ["run/seed-0", "run/seed-1"] if way == "array" else ["run"]:
        assert json.loads((place / f"job/{run}/status.json").read_text())["state"] == "finished"
        started = [(place / f"job/{run}.started.{rank}").exists() for rank in range(2)]
        assert started == [True, way != "array"]


def test_sigterm_reaches_the_run_which_saves_before_it_ends(place):
    (place / "stub.json").write_text('{"steps": 10000, "step_s": 0.05}')
    with subprocess.Popen([*SUBMIT, "--local"], cwd=place, env=environment()) as process:
        wait_until((place / "job/run/metrics.jsonl").exists, lambda: "no step was logged")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=TIMEOUT_S) == 0
    assert json.loads((place / "job/run/status.json").read_text())["state"] == "stopped"


def test_a_failure_ends_an_array_with_its_exit_code(place):
    (place / "stub.json").write_text('{"steps": 3, "exit_code": 3}')
    done = run_program([*SUBMIT, "--local", "--seeds", "0", "1"], place)
    assert done.returncode == 3
    assert not (place / "job/run/seed-1.started.0").exists()


def test_a_fault_is_one_line_and_exit_code_2(place):
    done = run_program([*SUBMIT, "--nodes", "0"], place)
    assert (done.returncode, done.stderr) == (2, "submit.py: error: --nodes 0: at least 1\n")


def test_without_slurm_the_user_hears_what_there_is_instead(place):
    done = run_program(SUBMIT, place, PATH=str(place))
    assert done.returncode == 2
    assert done.stderr.startswith("submit.py: error: sbatch: not found on this machine; --dry-run prints")


@pytest.mark.parametrize(("given", "ranks", "threads"), [(None, 2, 3), ("16", 2, 8), ("16", 3, 5), ("2", 4, 1)])
def test_ranks_of_torchrun_share_the_threads_of_one_process(monkeypatch, given, ranks, threads):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(local, "usable_cores", lambda: 6)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert local.start_ranks("torchrun", ranks)[:2] == ["env", f"OMP_NUM_THREADS={threads}"]


HOSTFILES = {
    "": "0 hosts for --nodes 2",
    "one slots=4\n": "1 hosts for --nodes 2",
    "one slots=4\ntwo slots=1\n": ":2: 'two slots=1': must have slots=4",
    "one slots=4\ntwo; reboot slots=4\n": ":2: 'two; reboot slots=4'",
}


@pytest.mark.parametrize("text", HOSTFILES)
def test_a_hostfile_without_the_jobs_nodes_is_an_error(tmp_path, text):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(InputError, match=HOSTFILES[text]):
        commands_for(Job("a", nodes=2, gpus_per_node=4), [], "deepspeed", tmp_path / "hosts")
    with pytest.raises(InputError, match="No such file"):
        commands_for(Job("a", nodes=2, gpus_per_node=4), [], "deepspeed", tmp_path / "missing")


def test_two_hosts_become_one_deepspeed_command(tmp_path):
    (tmp_path / "hosts").write_text("one slots=4\ntwo slots=4\n")
    job = Job("a", nodes=2, gpus_per_node=4, directory="logs")
    [command] = commands_for(job, ["--epochs", "1"], "deepspeed", tmp_path / "hosts")
    assert command == [
        "deepspeed", "--hostfile", str(tmp_path / "hosts"), "--num_nodes", "2", "--num_accelerators", "4",
        "launcher/train.py", "--epochs", "1", "--resume", "auto", "--output-dir", "logs/run",
    ]  # fmt: skip
