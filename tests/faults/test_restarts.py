"""Killed, stopped, resumed on other worlds: the same run in the end. Numbers as in docs/checkpoints.md."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from snake_dist.cluster.world import World
from snake_dist.errors import InputError
from snake_dist.run.config import parse_run_config
from snake_dist.run.preparation import check_config
from tests.support import faults
from tests.support.faults import at_step
from tests.support.processes import ROOT
from tests.support.run_checks import NUM_STEPS, check_equal, checkpoint_steps, ids_of, status_of
from tests.support.runs import adapter_tensors, logged
from tests.support.train_ranks import errors_of, flags_of, launch


def session_of(interrupted: Path, number: int) -> dict:
    return json.loads((interrupted / f"session{number}.json").read_text())


def printed(interrupted: Path, number: int) -> str:
    return "".join(path.read_text() for path in sorted((interrupted / f"logs{number}").iterdir()))


def test_01_kill_9_of_a_rank_in_mid_step(interrupted, oracle):
    session = session_of(interrupted, 0)
    assert session["codes"] == [1, -signal.SIGKILL]
    [error] = errors_of(printed(interrupted, 0))
    assert "rank 1 stopped, hung or died" in error
    assert session["status"]["state"] == "failed"
    assert session["status"]["checkpoint"] == "checkpoints/step-00000002"
    check_equal(interrupted / "run", oracle / "run")


def test_03_two_resumes_within_an_epoch_show_each_example_once(interrupted, oracle):
    expected = ids_of(oracle / "ids")
    sessions = [ids_of(interrupted / f"ids{number}") for number in range(4)]
    # The killed session lost steps 3 and 4, the stopped ones nothing.
    assert [list(session) for session in sessions] == [[1, 2, 3, 4], [3, 4, 5], [6], [7, 8]]
    for session in sessions:
        assert all(session[step] == expected[step] for step in session)
    kept = {step: ids for session in sessions for step, ids in session.items()}
    first_epoch = [i for step in range(1, 7) for i in kept[step]]
    assert len(set(first_epoch)) == len(first_epoch) == 48


def test_04_resume_at_the_end_of_an_epoch(interrupted, oracle):
    assert session_of(interrupted, 2)["status"]["step"] == 6
    assert logged(interrupted / "run", "train/epoch")[5] == 1.0
    check_equal(interrupted / "run", oracle / "run")


def test_05_other_worlds_and_other_stages(tmp_path, llama_dir, data, oracle):
    run = tmp_path / "run"
    worlds = [(1, 2, 3), (2, 3, 6), (1, 0, None)]  # ranks, ZeRO stage, step in which it is stopped
    for number, (world_size, stage, stop_in) in enumerate(worlds):
        injected = [(0, faults.record_ids, (str(tmp_path / f"ids{number}"),))]
        if stop_in:
            injected.append((0, at_step, (stop_in, faults.ask_to_stop, signal.SIGTERM)))
        flags = flags_of(llama_dir, data, run, ds=ROOT / f"ds_configs/zero{stage}.json")
        done = launch(flags, world_size, tmp_path / f"logs{number}", injected)
        assert done.codes == [0] * world_size, done.printed()
    seen = {step: ids for number in range(3) for step, ids in ids_of(tmp_path / f"ids{number}").items()}
    assert seen == ids_of(oracle / "ids")
    assert logged(run, "train/loss") == pytest.approx(logged(oracle / "run", "train/loss"), rel=1e-4)
    for name, tensor in adapter_tensors(oracle / "run").items():
        # Not element by element: ZeRO 3 rounds differently, and Adam makes much of that where a gradient is almost 0.
        assert (adapter_tensors(run)[name] - tensor).norm() < 5e-3 * tensor.norm(), name
    with pytest.raises(InputError, match="--global-batch-size 8: at least the number of ranks, 9"):
        check_config(parse_run_config(flags), World(rank=0, local_rank=0, size=9, local_size=9))


def test_09_sigterm_to_one_rank_stops_all_at_the_same_step(interrupted):
    session = session_of(interrupted, 1)
    assert session["codes"] == [0, 0]
    status = session["status"]
    assert (status["state"], status["step"], status["num_steps"]) == ("stopped", 5, NUM_STEPS)
    assert status["checkpoint"] == "checkpoints/step-00000005"
    assert "stopped after step 5 of 8" in printed(interrupted, 1)
    assert status["restarts_without_progress"] == 0


def test_10_a_duplicated_usr1_saves_once(interrupted):
    lines = map(json.loads, (interrupted / "stopped/metrics.jsonl").read_text().splitlines())
    saved = [line["step"] for line in lines if "checkpoint/stall_s" in line]
    assert saved == [2, 4, 5]
    assert checkpoint_steps(interrupted / "stopped") == [2, 4, 5]


def test_11_killed_while_it_saves_because_it_was_asked_to_stop(tmp_path, llama_dir, data, oracle):
    run = tmp_path / "run"
    flags = flags_of(llama_dir, data, run)
    injected = [
        (0, at_step, (5, faults.ask_to_stop, signal.SIGTERM)),
        (0, faults.failing, ("rename", "step-00000005", "die")),
    ]
    done = launch(flags, 2, tmp_path / "logs0", injected)
    assert done.codes == [-signal.SIGKILL, 1], done.printed()
    assert "rank 0" in done.printed(1)
    assert status_of(run)["state"] == "training"  # never "stopped" without the save
    done = launch(flags, 2, tmp_path / "logs1")
    assert done.codes == [0, 0], done.printed()
    assert "resuming from" in done.printed(0)
    assert "step-00000004" in done.printed(0)
    check_equal(run, oracle / "run")
    assert checkpoint_steps(run) == [4, 6, 8]
    assert status_of(run)["state"] == "finished"


def test_15_a_clock_an_hour_back_on_one_rank(interrupted, oracle):
    assert session_of(interrupted, 3)["codes"] == [0, 0]
    check_equal(interrupted / "run", oracle / "run")


def test_a_finished_run_says_so_and_ends_well(tmp_path, interrupted, llama_dir, data):
    run = shutil.copytree(interrupted / "run", tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs")
    assert done.codes == [0, 0]
    assert "finished at step 8: nothing is left to do" in done.printed(0)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_killed_before_its_first_checkpoint_it_starts_again(tmp_path, llama_dir, data, oracle):
    run = tmp_path / "run"
    flags = flags_of(llama_dir, data, run)
    done = launch(flags, 2, tmp_path / "logs0", [(0, at_step, (2, faults.die)), (1, at_step, (2, faults.die))])
    assert done.codes == [-signal.SIGKILL] * 2
    done = launch(flags, 2, tmp_path / "logs1")
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")
    assert status_of(run)["restarts_without_progress"] == 1


def test_a_new_directory_goes_on_from_a_checkpoint_of_another(tmp_path, llama_dir, data, oracle):
    checkpoint = oracle / "run/checkpoints/step-00000004"
    run = tmp_path / "run"
    done = launch(flags_of(llama_dir, data, run, resume=checkpoint), 2, tmp_path / "logs")
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")
    assert checkpoint_steps(run) == [6, 8]
    assert checkpoint_steps(oracle / "run") == [4, 6, 8]


@pytest.mark.parametrize(
    "adapter",
    ["adalora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pissa", "dora", "qlora"))],
)
def test_every_adapter_goes_on_to_the_bit(tmp_path, llama_dir, data, adapter):
    """AdaLoRA's importances and masks, PiSSA's changed base, a 4-bit base."""
    for name, injected in (
        ("oracle", []),
        ("run", [(1, at_step, (5, faults.ask_to_stop, signal.SIGTERM))]),
        ("run", []),
    ):
        done = launch(flags_of(llama_dir, data, tmp_path / name, adapter=adapter), 2, tmp_path / "logs", injected)
        assert done.codes == [0, 0], done.printed()
    check_equal(tmp_path / "run", tmp_path / "oracle")
    assert logged(tmp_path / "run", "train/mean_rank") == logged(tmp_path / "oracle", "train/mean_rank")
