"""launcher/train.py itself on a real Slurm: stopped before its limit, then preempted, it ends as if not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from snake_dist.run.finetune import finetune
from snake_dist.verbs import submit
from tests.support.processes import ROOT, wait_until
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, logged, tiny_config, tiny_data
from tests.support.slurm_cluster import Cluster

NUM_STEPS = 80


def uninterrupted(model: Path, data: Path, output: Path, flags: dict[str, Any]) -> None:
    """What a rank of the oracle runs."""
    finetune(tiny_config(model, data, output, **flags))


def queue_run(slurm: Cluster, directory: Path, ranks_per_node: int, flags: list[str]) -> str:
    """Queue train.py on two nodes; its run is in directory/run. Returns the job's id."""
    # The job gets nothing of this environment but what is named.
    named = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"], "HF_HUB_OFFLINE": "1"}
    env = ["--env", *(f"{name}={value}" for name, value in named.items())]
    size = ["--nodes", "2", "--ranks-per-node", str(ranks_per_node), "--cpus-per-rank", "1"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm.environment.items():
            patch.setenv(name, value)
        argv = ["--job-name", "real", "--directory", str(directory), *size, *env, "--", *flags]
        [(_, job, program_flags)] = submit.read_jobs(argv)
        return submit.slurm_commands.write_and_submit(job, program_flags, {})


def last_step(run: Path) -> int:
    """The last whole step in the run's log; 0 before the first."""
    path = run / "metrics.jsonl"
    lines = (
        [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
    )
    return max([json.loads(line)["step"] for line in lines], default=0)


@pytest.mark.parametrize(
    ("ranks_per_node", "is_preempted"), [(1, False), pytest.param(2, True, marks=pytest.mark.slow)]
)
def test_a_run_that_was_stopped_equals_one_that_was_not(slurm, tmp_path, llama_dir, ranks_per_node, is_preempted):
    data = tiny_data(tmp_path / "data")
    flags = {"max_steps": NUM_STEPS, "micro_batch_size": 1, "dropout": 0.1, "eval_every": 0, "save_every": 1000}
    run, oracle = tmp_path / "job/run", tmp_path / "oracle"
    config = tiny_config(llama_dir, data, run, **flags | {"wandb_mode": "offline"})
    given = config.flat() | {"output-dir": None, "resume": "auto"}
    (tmp_path / "recipe.yaml").write_text(json.dumps({k: v for k, v in given.items() if v not in (None, ())}))
    job = queue_run(slurm, tmp_path / "job", ranks_per_node, ["--config", str(tmp_path / "recipe.yaml")])

    def wait_for_steps_after(step: int) -> int:
        def log() -> str:
            return (tmp_path / f"job/{job}.out").read_text()[-3000:]

        wait_until(lambda: last_step(run) > step + 2, log)
        return last_step(run)

    wait_for_steps_after(0)
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    slurm.start_again(job, restarts=1)
    first = json.loads((run / "status.json").read_text())
    assert first["state"] == "stopped"
    assert 0 < first["step"] < NUM_STEPS
    assert (run / first["checkpoint"]).is_dir()

    if is_preempted:
        wait_for_steps_after(first["step"])
        high = ("--partition=high", "-N2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        slurm.wait(slurm.run("sbatch", "--parsable", *high).strip(), "COMPLETED")
        slurm.start_again(job, restarts=2)
        second = json.loads((run / "status.json").read_text())
        assert second["state"] == "stopped"
        assert first["step"] < second["step"] < NUM_STEPS

    run_on_ranks(uninterrupted, 2 * ranks_per_node, llama_dir, data, oracle, flags)  # while the job starts
    slurm.wait(job, "COMPLETED")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert len(logged(run, "train/loss")) == NUM_STEPS
    assert logged(run, "train/loss") == logged(oracle, "train/loss")
    expected = adapter_tensors(oracle)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter_tensors(run).items())
    # Several starts, one W&B run.
    assert len({path.name.rsplit("-", 1)[1] for path in (run / "wandb").glob("offline-run-*")}) == 1
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2 + is_preempted
