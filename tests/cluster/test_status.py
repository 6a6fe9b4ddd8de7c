"""The run's own side of `submit.py status`: what its files say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from snake_dist.cluster.status import describe, job_line, progress, run_table
from snake_dist.errors import InputError


def write_run(run: Path, state: str = "training", steps: tuple[int, ...] = (), **values: float) -> Path:
    run.mkdir(parents=True)
    status = {"state": state, "step": 0, "num_steps": 100, "checkpoint": None, "reason": None}
    (run / "status.json").write_text(json.dumps(status))
    lines = [json.dumps({"step": step, "train/loss": 1 / step} | values) for step in steps]
    (run / "metrics.jsonl").write_text("\n".join(lines) + ('\n{"step": 99, "train/lo' if lines else ""))
    return run


def test_the_time_left_counts_from_this_start_and_not_from_loading_the_model(tmp_path):
    run = write_run(tmp_path / "run", steps=tuple(range(1, 31)))
    (tmp_path / "run.starts").write_text("7 0 1000 step-????????\n7 1 2000 step-00000010\n")
    os.utime(run / "metrics.jsonl", (2200, 2200))
    assert progress(run)["left_s"] == pytest.approx(200 / 20 * 70)
    (run / "run.json").write_text("{}")
    os.utime(run / "run.json", (2160, 2160))
    assert progress(run)["left_s"] == pytest.approx(40 / 20 * 70)
    os.utime(run / "run.json", (1500, 1500))  # of the start before
    assert progress(run)["left_s"] == pytest.approx(200 / 20 * 70)


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    assert progress(write_run(tmp_path / "run", steps=(1, 2)))["step"] == 2
    assert progress(write_run(tmp_path / "new"))["loss"] is None


def test_runs_of_an_array_are_listed_best_first(tmp_path):
    for name, loss in (("a", 0.5), ("b", 0.25)):
        write_run(tmp_path / f"run/{name}", steps=(1,), **{"eval/loss": loss})
    write_run(tmp_path / "run/c", state="failed")
    (tmp_path / "run/b/summary.json").write_text('{"play": {"players": {"adapter": {"apples": {"mean": 9.5}}}}}')
    lines = describe(str(tmp_path)).splitlines()
    assert [line.split("  ")[0].rsplit("/")[-1] for line in lines] == ["b", "a", "c"]
    assert "held-out loss 0.2500, 9.50 apples a game" in lines[0]
    assert "failed, step 0 of 100" in lines[2]


def test_a_directory_without_a_run_and_a_word_that_is_no_job_are_named(tmp_path):
    with pytest.raises(InputError, match="no run has started in this directory"):
        describe(str(tmp_path))
    with pytest.raises(InputError, match="nosuch: neither a directory nor a job id"):
        describe("nosuch")


def test_a_pending_job_says_why_it_waits():
    facts = {
        "JobId": "9", "ArrayJobId": "8", "ArrayTaskId": "1", "JobName": "a", "JobState": "PENDING",
        "Reason": "Resources", "NodeList": "(null)", "Restarts": "1", "RunTime": "00:00:00", "TimeLimit": "1:00:00",
        "StdOut": "8_1.out",
    }  # fmt: skip
    assert job_line(facts) == "job 8_1  a  PENDING (Resources), restarts 1, 00:00:00 of 1:00:00, log 8_1.out"
    assert run_table([]) == []
