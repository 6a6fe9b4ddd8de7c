"""Ranks that hang, run out of memory, see NaN, or find their port or directory in use; W&B that does not answer.

Ranks that are killed: test_restarts.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults
from tests.support.faults import at_step, replace
from tests.support.processes import ROOT, TIMEOUT_S, wait_until
from tests.support.run_checks import check_equal, checkpoint_steps, status_of
from tests.support.runs import adapter_tensors, logged
from tests.support.train_ranks import Ranks, errors_of, flags_of, launch

RANK_TIMEOUT_S = 12
"""Long enough that a busy machine does not look like a rank that hangs."""


def test_12_and_18_a_stopped_rank_is_named_and_the_directory_is_locked(tmp_path, llama_dir, data, oracle):
    run = tmp_path / "run"
    fault = (1, at_step, (4, faults.pause))
    flags = flags_of(llama_dir, data, run, rank_timeout_s=RANK_TIMEOUT_S)
    with Ranks(flags, 2, tmp_path / "logs0", [fault]) as paused:
        metrics = run / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and '"step": 3' in metrics.read_text(), lambda: paused.printed())
        second = launch(flags, 1, tmp_path / "logs1")
        assert second.codes == [2], second.printed()
        [error] = errors_of(second.printed())
        assert f"another run is using it: process {paused.processes[0].pid} on " in error
        paused.processes[0].join(TIMEOUT_S)
        assert [rank.exitcode for rank in paused.processes] == [1, None]
        [error] = errors_of(paused.printed(0))
        assert f"no rank made progress for {RANK_TIMEOUT_S} s: rank 1 stopped, hung or died" in error
        assert status_of(run)["state"] == "failed"
    # The lock's file is still there, and stale.
    assert (run / ".run.lock").exists()
    done = launch(flags, 2, tmp_path / "logs2")
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")


def test_12_the_rank_that_holds_the_store(tmp_path, llama_dir, data):
    fault = (0, at_step, (2, faults.pause))
    flags = flags_of(llama_dir, data, tmp_path / "run", rank_timeout_s=RANK_TIMEOUT_S)
    with Ranks(flags, 2, tmp_path / "logs", [fault]) as paused:
        paused.processes[1].join(TIMEOUT_S)
        assert paused.processes[1].exitcode == 1
        [error] = errors_of(paused.printed(1))
        assert "rank 0 " in error


def dump_parameters(path: str) -> None:
    """At the end of training, a digest of what this rank holds."""
    from snake_dist.run import training as run_training

    real = run_training.run_steps

    def run_steps(trainer: Any, **named: Any) -> None:
        real(trainer, **named)
        digest = hashlib.sha256()
        for parameter in trainer.engine.module.parameters():
            if parameter.requires_grad:
                digest.update(parameter.detach().float().numpy().tobytes())
        Path(path).write_text(digest.hexdigest())

    faults.replace(run_training, "run_steps", run_steps)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "float32"), (2, "bfloat16")])
def test_14_nan_on_one_rank_skips_the_step_on_all(tmp_path, llama_dir, data, stage, dtype):
    run = tmp_path / "run"
    flags = flags_of(llama_dir, data, run, ds=ROOT / f"ds_configs/zero{stage}.json", base_dtype=dtype, max_steps=5)
    nan = (1, faults.nan_in_module, ("model.layers.1.mlp", 3, 3))
    injected = [nan, *((r, dump_parameters, (str(tmp_path / f"{r}"),)) for r in (0, 1))]
    done = launch(flags, 2, tmp_path / "logs", injected)
    assert done.codes == [0, 0], done.printed()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/skipped" in line] == [3]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 4, 5]
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()
    assert all(tensor.isfinite().all() for tensor in adapter_tensors(run).values())
    assert logged(run, "train/loss")[-1] < logged(run, "train/loss")[0]
    found = json.loads((run / "not_finite.json").read_text())
    assert (found["step"], found["module"], found["rank"], found["micro_batch"]) == (3, "model.layers.1.mlp", 1, 0)
    assert len(found["places"]) == 2
    assert all(place.split(":")[0].endswith(".jsonl") for place in found["places"])
    assert found["last_gradient_norm"] == logged(run, "train/grad_norm")[1]
    said = [line for line in done.printed().splitlines() if "step 3: not finite" in line]
    assert len(said) == 1
    assert f"first in the output of model.layers.1.mlp, rank 1, on {', '.join(found['places'])};" in said[0]


def test_14_nan_in_every_step_stops_the_run(tmp_path, llama_dir, data):
    run = tmp_path / "run"
    done = launch(flags_of(llama_dir, data, run), 2, tmp_path / "logs", [(1, faults.nan_logits, (2, 99))])
    assert done.codes == [2, 2]
    [error] = errors_of(done.printed())  # of the step's loss, which all ranks have: rank 0 says it
    assert "step 6: loss or gradient was not finite in 5 steps in a row" in error
    assert done.printed().count("every module's output is finite, so the backward pass it was") == 1
    from safetensors.torch import load_file

    for step in checkpoint_steps(run):
        tensors = load_file(run / f"checkpoints/step-{step:08d}/state.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_16_a_port_in_use_fails_in_seconds(tmp_path, llama_dir, data):
    with socket.socket() as silent:
        silent.bind(("0.0.0.0", 0))
        silent.listen()
        port = silent.getsockname()[1]
        flags = flags_of(llama_dir, data, tmp_path / "run")
        with Ranks(flags, 2, tmp_path / "logs", port=port) as launched:
            launched.processes[0].join(TIMEOUT_S)
            assert launched.processes[0].exitcode == 2
            [error] = errors_of(launched.printed(0))
            assert f"MASTER_PORT={port}: rank 0 cannot listen there" in error
    assert not (tmp_path / "run").exists()


CANARY = "c4nary" + "0123456789abcdef" * 2 + "XY"


def wandb_account(port: int, key: str | None) -> None:
    """A server at `port`, a key or none, and little patience."""
    from snake_dist.training import wandb_log

    os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{port}")
    if key is not None:
        os.environ.update(WANDB_API_KEY=key, SECRET_TOKEN=key)
    replace(wandb_log, "INIT_TIMEOUT_S", 2.0)


def check_kept(run: Path) -> None:
    """What was logged is there for `wandb sync`."""
    assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_17_and_21_a_wandb_that_hangs_with_a_key_that_must_not_leak(tmp_path, llama_dir, data, oracle):
    """The directory's name, which W&B shows as the run's, is hostile too."""
    run = tmp_path / "work" / 'x"; touch pwned; $(touch pwned)\n--output-dir=pwned `touch pwned` ..'
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        fault = (0, wandb_account, (silent.getsockname()[1], CANARY))
        flags = flags_of(llama_dir, data, run, wandb_mode="auto")
        done = launch(flags, 2, tmp_path / "logs", [fault])
    assert done.codes == [0, 0], done.printed()
    check_equal(run, oracle / "run")
    check_kept(run)
    leaks = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert leaks == []
    assert not list(tmp_path.rglob("pwned"))
    assert [path.name for path in run.parent.iterdir()] == [run.name]


@pytest.mark.parametrize(("mode", "key"), [("online", CANARY), ("auto", None)], ids=["down", "no key"])
def test_17_a_wandb_that_is_down_or_has_no_key(tmp_path, llama_dir, data, oracle, mode, key):
    """Ranks have no terminal here either."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        fault = (0, wandb_account, (taken.getsockname()[1], key))
        done = launch(flags_of(llama_dir, data, tmp_path / "run", wandb_mode=mode), 2, tmp_path / "logs", [fault])
    assert done.codes == [0, 0], done.printed()
    check_equal(tmp_path / "run", oracle / "run")
    check_kept(tmp_path / "run")
    assert done.printed().count("W&B: ") == (key is not None)


def test_19_out_of_memory_on_one_rank(tmp_path, llama_dir, data):
    fault = (1, at_step, (2, faults.out_of_memory))
    done = launch(flags_of(llama_dir, data, tmp_path / "run"), 2, tmp_path / "logs", [fault])
    assert done.codes == [1, 1], done.printed()
    [error] = errors_of(done.printed())
    assert "rank 1 ran out of memory on a micro-batch of 2 examples, 1 x " in error
    assert "Traceback" not in done.printed()
    assert status_of(tmp_path / "run")["state"] == "failed"
