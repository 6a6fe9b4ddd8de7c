"""The faults a run must survive, by number. World 2 over gloo; an uninterrupted run is the oracle."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest

from tests.faults import ranks as faults
from tests.faults.ranks import at_step, launch
from tests.runs import logged, tiny_data

NUM_STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """40 training examples in batches of 8: an epoch ends exactly with step 5."""
    return tiny_data(tmp_path_factory.mktemp("games") / "data")


@pytest.fixture(scope="module")
def oracle(tmp_path_factory, llama_dir, data) -> Path:
    directory = tmp_path_factory.mktemp("oracle")
    flags = faults.flags_of(llama_dir, data, directory / "run")
    done = launch(flags, 2, directory / "logs", [(0, faults.record_ids, (str(directory / "ids"),))])
    assert done.codes == [0, 0], done.printed()
    return directory


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, llama_dir, data) -> Path:
    """Three sessions: rank 1 killed in step 4, rank 1 asked to stop in step 5, and one that ends. The last one has a
    rank whose clock is an hour behind."""
    directory = tmp_path_factory.mktemp("interrupted")
    flags = faults.flags_of(llama_dir, data, directory / "run")
    stop = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR1)
    for session, injected in enumerate(
        [
            [(1, at_step, (4, faults.die))],
            [(1, at_step, (5, faults.ask_to_stop, *stop))],
            [(1, faults.clock_back, (3600.0,))],
        ]
    ):
        injected.append((0, faults.record_ids, (str(directory / f"ids{session}"),)))
        done = launch(flags, 2, directory / f"logs{session}", injected)
        (directory / f"codes{session}").write_text(json.dumps(done.codes))
        (directory / f"status{session}").write_text((directory / "run/status.json").read_text())
    return directory


def ids_of(path: Path) -> dict[int, list[int]]:
    return dict(map(json.loads, path.read_text().splitlines()))


def adapter_hash(run: Path) -> str:
    return hashlib.sha256((run / "lora_adapters/model_artifacts/adapter_model.safetensors").read_bytes()).hexdigest()


def check_equal(run: Path, oracle: Path) -> None:
    """To the bit: losses, gradient norms, held-out losses and the adapter."""
    for metric in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"):
        assert logged(run, metric) == logged(oracle, metric), metric
    assert [step for step, _ in steps_logged(run)] == list(range(1, NUM_STEPS + 1))
    assert adapter_hash(run) == adapter_hash(oracle)


def steps_logged(run: Path) -> list[tuple[int, dict]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line) for line in lines if "train/loss" in line]


def printed(directory: Path, session: int) -> str:
    return "".join(path.read_text() for path in sorted((directory / f"logs{session}").iterdir()))


def test_01_kill_9_of_a_rank_in_mid_step(interrupted, oracle):
    codes = json.loads((interrupted / "codes0").read_text())
    assert codes == [1, -signal.SIGKILL]
    [error] = faults.errors_of(printed(interrupted, 0))
    assert "rank 1" in error
    status = json.loads((interrupted / "status0").read_text())
    assert (status["state"], status["checkpoint"]) == ("failed", "checkpoints/step-00000002")
    check_equal(interrupted / "run", oracle / "run")
