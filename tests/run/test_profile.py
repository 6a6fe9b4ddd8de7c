"""`--profile` writes a trace for each rank; `--deterministic` changes no number on a CPU; bad values are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from snake_dist.errors import InputError
from snake_dist.run.config import parse_run_config
from snake_dist.run.preparation import check_config
from snake_dist.run.profile import profiled_steps
from snake_dist.training.metrics import LOSS
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data, tiny_flags
from tests.support.tiny_models import tiny_llama


def finetune_each(configs: list[Any]) -> tuple[list[Any], tuple[bool, str | None]]:
    """On a rank: the summaries of whole runs, and whether PyTorch is left with deterministic kernels."""
    import os

    import torch

    from snake_dist.run.finetune import finetune

    summaries = [finetune(config) for config in configs]
    return summaries, (torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG"))


def test_each_rank_profiles_the_steps_asked_for_and_numbers_stay(tmp_path: Path) -> None:
    llama, data = tiny_llama(tmp_path / "llama"), tiny_data(tmp_path / "data")
    plain = tiny_config(llama, data, tmp_path / "plain")
    flags = tiny_flags(llama, data, tmp_path / "traced", profile="2-2")
    traced = parse_run_config([*flags, "--deterministic"])
    ranks = run_on_ranks(finetune_each, 2, [plain, traced])
    (one, other), settings = ranks[0]
    assert settings == (True, ":4096:8")
    assert one["training"][LOSS] == other["training"][LOSS]
    for rank in (0, 1):
        with gzip.open(tmp_path / "traced" / "profile" / f"rank_{rank}.json.gz", "rt") as file:
            events = json.load(file)["traceEvents"]
        steps = [event for event in events if str(event.get("name", "")).startswith("Optimizer.step")]
        assert len(steps) == 1
    assert not (tmp_path / "plain" / "profile").exists()


@pytest.mark.parametrize("text", ["3", "0-2", "3-2", "2-9", "a-b", "-2"])
def test_steps_that_a_run_does_not_have_are_named(text: str) -> None:
    with pytest.raises(InputError, match=f"--profile {text}: FIRST-LAST.*to the run's 8 steps"):
        profiled_steps(text, 8)
    assert profiled_steps("2-8", 8) == (2, 8)


def test_layers_are_not_compiled_under_zero_3_nor_without_a_gpu(tmp_path: Path) -> None:
    from snake_dist.cluster.world import World
    from snake_dist.model.compiled_layers import check_compiles

    ds = Path(__file__).resolve().parents[2] / "ds_configs" / "zero3.json"
    config = parse_run_config([*tiny_flags(tmp_path, tmp_path, tmp_path, ds=ds), "--compile-layers"])
    with pytest.raises(InputError, match="--compile-layers contradicts ZeRO stage 3"):
        check_config(config, World(0, 0, 1, 1))
    with pytest.raises(InputError, match="--compile-layers: a CUDA device"):
        check_compiles()
