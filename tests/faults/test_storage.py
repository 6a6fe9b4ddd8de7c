"""Disks and files that fail or lie: what was committed survives, and nothing false is believed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from snake_dist.checkpoint import checkpoints
from snake_dist.checkpoint.run_dir import open_run_dir
from snake_dist.checkpoint.writer import CheckpointWriter
from snake_dist.errors import InputError, NoGoodCheckpointError
from snake_dist.files import MANIFEST, sha256_of
from snake_dist.run.config import parse_run_config
from snake_dist.run.finetune import finetune
from tests.support import faults
from tests.support.faults import at_step
from tests.support.processes import TIMEOUT_S
from tests.support.ranks import fork_server, run_on_ranks
from tests.support.run_checks import check_equal, checkpoint_steps, status_of
from tests.support.tiny_models import tiny_llama
from tests.support.train_ranks import errors_of, flags_of, launch

NUMBERS = {"fingerprint": {}, "optimizer": {"optimizer_steps": 1, "loss_scaler": {}}, "held_out_loss": None}


def commit_one(run: Path, step: int, **numbers: Any) -> None:
    import torch

    checkpoints.commit(run, step, {"master/x": torch.full((1000,), float(step))}, NUMBERS | numbers)


def commit_and_die(run: str, phase: str) -> None:
    """A commit of step 4, keeping one checkpoint, in which the process dies."""
    import safetensors.torch
    import torch

    real_save = safetensors.torch.save_file
    if phase == "shard":

        def save_half(tensors: Any, path: Path) -> None:
            real_save(tensors, path)
            os.truncate(path, path.stat().st_size // 2)
            faults.die()

        safetensors.torch.save_file = save_half
    elif phase == "manifest":
        faults.failing("fsync", "manifest.json", "die")
    elif phase == "rename":
        faults.failing("rename", "step-00000004", "die")
    else:
        shutil.rmtree = lambda path, *_, **__: faults.die() if "removed" in str(path) else None
    writer = CheckpointWriter(Path(run), keep=1, best_by="loss", on_commit=lambda _step: None)
    writer.start(4, {"master/x": torch.full((1000,), 4.0)}, NUMBERS)
    writer.wait()


@pytest.mark.parametrize(("phase", "chosen"), [("shard", 2), ("manifest", 2), ("rename", 2), ("prune", 4)])
def test_02_kill_in_each_phase_of_a_save(tmp_path, phase, chosen):
    commit_one(tmp_path, 2)
    process = fork_server.Process(target=commit_and_die, args=(str(tmp_path), phase))
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL
    assert [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")], "nothing was left"
    checkpoints.clean_leftovers(tmp_path)
    found = checkpoints.choose(tmp_path, warn=pytest.fail)
    assert found is not None
    assert found.step == chosen
    assert checkpoints.read_tensors(found)["master/x"][0] == chosen
    assert checkpoint_steps(tmp_path) == [chosen]


def damage(path: Path, kind: str) -> None:
    tensors = path / "state.safetensors"
    if kind == "truncated":
        os.truncate(tensors, tensors.stat().st_size - 1)
    elif kind == "bit-flipped":
        content = bytearray(tensors.read_bytes())
        content[len(content) // 2] ^= 1
        tensors.write_bytes(content)
    else:
        (path / "state.json").unlink()


@pytest.mark.parametrize("kind", ["truncated", "bit-flipped", "missing a file"])
def test_06_a_damaged_checkpoint_is_passed_over(tmp_path, kind):
    for step in (2, 4):
        commit_one(tmp_path, step)
    said: list[str] = []
    damage(tmp_path / "checkpoints/step-00000004", kind)
    found = checkpoints.choose(tmp_path, said.append)
    assert found is not None
    assert found.step == 2
    assert len(said) == 1
    assert "step-00000004" in said[0]
    damage(tmp_path / "checkpoints/step-00000002", kind)
    with pytest.raises(NoGoodCheckpointError, match="none of the 2 checkpoints is intact"):
        checkpoints.choose(tmp_path, said.append)


def test_06_all_ranks_fall_back_together_and_never_to_zero(tmp_path, interrupted, oracle, llama_dir, data):
    run = shutil.copytree(interrupted / "stopped", tmp_path / "run")
    damage(run / "checkpoints/step-00000005", "bit-flipped")
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs0")
    assert done.codes == [0, 0], done.printed()
    assert done.printed().count("warning: skipped a checkpoint") == 1
    check_equal(run, oracle / "run")

    run = shutil.copytree(interrupted / "stopped", tmp_path / "hopeless")
    for path in (run / "checkpoints").iterdir():
        damage(path, "truncated")
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs1")
    assert done.codes == [3, 3]
    [error] = errors_of(done.printed())
    assert "none of the 3 checkpoints is intact" in error
    assert not (run / "lora_adapters").exists()


def test_a_checkpoint_holds_the_adapter_and_nothing_of_the_base(oracle):
    from safetensors import safe_open

    run = oracle / "run"
    newest = max((run / "checkpoints").iterdir()) / "state.safetensors"
    adapter = (run / "lora_adapters/model_artifacts/adapter_model.safetensors").stat().st_size
    with safe_open(newest, "pt") as state:
        assert [name for name in state.keys() if ".lora_" not in name] == []  # noqa: SIM118 - no mapping
    assert newest.stat().st_size < 4 * adapter, "master weights and two moments"


def test_07_disk_full(tmp_path, llama_dir, data, oracle):
    """A small tmpfs where one can be mounted; else files may not grow (RLIMIT_FSIZE), which fails in the same place."""
    run = tmp_path / "run"
    run.mkdir()
    size = (oracle / "run/checkpoints/step-00000008/state.safetensors").stat().st_size
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(size * 1.6) + 60_000}", "none", str(run)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    injected = [] if is_mounted else [(0, at_step, (3, faults.limited_files, size // 2))]
    try:
        done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs", injected)
        assert done.codes == [2, 2], done.printed()
        [error] = errors_of(done.printed())
        assert str(run / "checkpoints/step-00000004") in error
        assert "No space left" in error or "File too large" in error
        assert checkpoint_steps(run) == [2]
        assert checkpoints.verify(run / "checkpoints/step-00000002").step == 2
        assert status_of(run)["checkpoint"] == "checkpoints/step-00000002"
    finally:
        if is_mounted:
            subprocess.run(["umount", str(run)], check=True)


@pytest.mark.parametrize(("name", "after"), [("metrics.jsonl", 4), ("adapter.jsonl", 2)])
def test_07_a_full_disk_under_a_log_ends_all_ranks_in_one_line(tmp_path, llama_dir, data, oracle, name, after):
    run = tmp_path / "run"
    flags = flags_of(llama_dir, data, run, play_games=3)
    done = launch(flags, 2, tmp_path / "logs", [(0, faults.full_disk_for, (name, after))])
    assert done.codes == [2, 2], done.printed()
    assert "Traceback" not in done.printed(), done.printed()
    [error] = errors_of(done.printed())
    assert "No space left on device" in error
    assert name in error
    assert status_of(run)["state"] == "failed"
    again = launch(flags, 2, tmp_path / "logs-again")
    assert again.codes == [0, 0], again.printed()
    check_equal(run, oracle / "run")


@pytest.mark.parametrize(
    ("rank", "fault"),
    [
        (0, (at_step, (1, faults.full_disk))),
        (1, (at_step, (1, faults.full_disk))),
        (0, (faults.full_disk_at_start, ())),
    ],
)
def test_07_a_full_disk_under_one_rank_is_said_by_that_rank_alone(tmp_path, llama_dir, data, rank, fault):
    """Rank 0 has the store by which the others hear of it."""
    run = tmp_path / "run"
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs", [(rank, *fault)])
    assert done.codes == [1, 1], done.printed()
    assert "Traceback" not in done.printed(), done.printed()
    assert errors_of(done.printed(1 - rank)) == []
    [error] = errors_of(done.printed(rank))
    assert "[Errno 28] No space left on device: 'status.json'" in error
    assert status_of(run)["state"] == ("training" if fault[0] is faults.full_disk_at_start else "failed")


def test_07_what_a_session_without_a_status_left_is_no_obstacle(tmp_path):
    """It was killed, or found the disk full, while it took the directory."""
    for name in (".run.lock", ".run.owner", ".status.json.tmp"):
        (tmp_path / name).write_text("")
    found, lock = open_run_dir(tmp_path, "auto", pytest.fail)
    assert found is None
    lock.release()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="is not empty: name a new or an empty directory"):
        open_run_dir(tmp_path, "auto", pytest.fail)


def test_08_read_only_output_fails_before_the_model_loads(tmp_path, llama_dir, data):
    done = launch(flags_of(llama_dir, data, Path("/proc/self/run")), 2, tmp_path / "logs", [(0, no_model, ())])
    assert done.codes == [2, 2]
    [error] = errors_of(done.printed())
    assert "--output-dir /proc/self/run: cannot be written" in error


def no_model() -> None:
    from transformers import AutoModelForCausalLM

    def from_pretrained(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    faults.replace(AutoModelForCausalLM, "from_pretrained", from_pretrained)


def refusals(argvs: list[list[str]]) -> list[str]:
    """What `finetune` says to each command line, with a model that must not be loaded."""
    no_model()
    said = []
    for argv in argvs:
        try:
            finetune(parse_run_config(argv))
        except InputError as problem:
            said.append(str(problem))
    return said


def test_13_and_20_another_run_is_refused_with_both_values(tmp_path, interrupted, llama_dir, data):
    run = shutil.copytree(interrupted / "stopped", tmp_path / "run")
    other_base = tiny_llama(tmp_path / "base", seed=1)
    other_tokenizer = shutil.copytree(llama_dir, tmp_path / "tokenizer")
    definition = json.loads((other_tokenizer / "tokenizer.json").read_text())
    definition["pre_tokenizer"]["add_prefix_space"] = True
    (other_tokenizer / "tokenizer.json").write_text(json.dumps(definition))
    longer, torn = shutil.copytree(data, tmp_path / "longer"), shutil.copytree(data, tmp_path / "torn")
    lines = next(longer.glob("*.jsonl")).read_text().splitlines(keepends=True)
    next(longer.glob("*.jsonl")).write_text("".join([*lines, lines[-1]]))
    next(torn.glob("*.jsonl")).write_text("".join(lines)[:-20])
    expected = {
        ("rank", 8): "--rank was 4, now 8",
        ("alpha", 8): "--alpha was 32, now 8.0",
        ("seed", 1): "--seed was 0, now 1",
        ("global_batch_size", 4): "--global-batch-size was 8, now 4",
        ("learning_rate", 0.5): "--learning-rate was 0.01, now 0.5",
        ("base_model", other_base): "--base-model was sha256:",
        ("base_model", other_tokenizer): "tokenizer was ",
        ("data", longer): "--data, examples was 72, now 73",
        ("data", torn): ":72: torn or invalid JSON",
    }
    argvs = []
    for name, value in expected:
        argvs.append([*flags_of(llama_dir, data, run), f"--{name.replace('_', '-')}", str(value)])
    [said] = run_on_ranks(refusals, 1, argvs)
    assert len(said) == len(expected)
    for text, message in zip(said, expected.values(), strict=True):
        assert message in text
        assert "\n" not in text
    assert checkpoint_steps(run) == [2, 4, 5]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_21_a_planted_pickle_is_never_opened(tmp_path, interrupted, oracle, llama_dir, data):
    run, bombed = shutil.copytree(interrupted / "stopped", tmp_path / "run"), tmp_path / "bombed"
    bomb = pickle.dumps(Bomb(bombed))
    newest = run / "checkpoints/step-00000005"
    for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin", "state.pkl"):
        (newest / name).write_bytes(bomb)
    # In place of the tensors of the checkpoint before, with a manifest that vouches for it.
    older = run / "checkpoints/step-00000004"
    (older / "state.safetensors").write_bytes(bomb)
    manifest = json.loads((older / MANIFEST).read_text())
    (older / MANIFEST).write_text(json.dumps(manifest | {"state.safetensors": sha256_of(older / "state.safetensors")}))
    flags = flags_of(llama_dir, data, tmp_path / "branch", resume=older)
    done = launch(flags, 2, tmp_path / "logs0")
    assert done.codes == [2, 2]
    [error] = errors_of(done.printed())
    assert "state.safetensors: cannot be read" in error
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs1")
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")
    assert not bombed.exists()
    pickle.loads(bomb)
    assert bombed.exists(), "the bomb is a dud"


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_22_a_failing_sync_or_rename_fails_the_save_on_all_ranks(tmp_path, llama_dir, data, call):
    run = tmp_path / "run"
    fault = (0, faults.failing, (call, "step-00000004", "fail"))
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs", [fault])
    assert done.codes == [2, 2], done.printed()
    [error] = errors_of(done.printed())
    assert "step-00000004: not saved" in error
    assert "Input/output error" in error
    assert checkpoint_steps(run) == [2]
    status = status_of(run)
    assert (status["state"], status["checkpoint"]) == ("failed", "checkpoints/step-00000002")


@pytest.mark.parametrize(("best_by", "best"), [("loss", 20), ("play", 25)])
def test_the_newest_and_the_best_are_kept(tmp_path, best_by, best):
    found = ((10, 3.0, 5.0), (20, 1.0, 4.0), (25, 2.5, 5.0), (30, None, None), (40, 2.0, None), (50, 4.0, 0.0))
    for step, loss, apples in found:
        commit_one(tmp_path, step, held_out_loss=loss, play_apples=apples)
        checkpoints.prune(tmp_path, keep=2, best_by=best_by)
    assert checkpoint_steps(tmp_path) == [best, 40, 50]


def test_without_a_held_out_loss_play_still_decides_which_is_best(tmp_path):
    for step, apples in ((10, 3.0), (20, 5.0), (30, 1.0)):
        commit_one(tmp_path, step, held_out_loss=None, play_apples=apples)
    assert checkpoints.best_checkpoint(tmp_path, "play") == checkpoints.checkpoint_path(tmp_path, 20)
    assert checkpoints.best_checkpoint(tmp_path, "loss") is None
