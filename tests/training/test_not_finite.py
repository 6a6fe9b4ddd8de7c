"""When a skipped step is explained. What is found in it, at each ZeRO stage: tests/faults/test_ranks_that_fail.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from snake_dist.errors import InputError
from snake_dist.training import not_finite
from snake_dist.training.not_finite import MAX_SKIPPED_FP16, SkippedSteps

FINITE, NAN = torch.tensor(1.0), torch.tensor(float("nan"))


@pytest.fixture
def skips(monkeypatch) -> SimpleNamespace:
    """A run's skipped steps with an `engine` of which a test sets dtype and loss scale; `said`: the steps explained."""
    engine = SimpleNamespace(fp16_enabled=lambda: True, scale=2.0**16)
    said: list[int] = []
    trainer = SimpleNamespace(engine=engine, config=SimpleNamespace(learning_rate=1.0))
    monkeypatch.setattr(not_finite, "loss_scale", lambda engine: engine.scale)
    monkeypatch.setattr(not_finite, "explain", lambda _trainer, step, *_: step)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)
    counted = SkippedSteps(trainer, said.append)  # type: ignore[arg-type]

    def count(step: int, loss: torch.Tensor, is_skipped: bool = True) -> None:
        counted.count(step, np.array([0]), loss, is_skipped=is_skipped)

    return SimpleNamespace(engine=engine, said=said, count=count)


def test_a_loss_scale_on_its_way_down_is_no_fault(skips):
    for step in range(MAX_SKIPPED_FP16 - 1):
        skips.count(step, FINITE)
    assert skips.said == []
    with pytest.raises(InputError, match=f"{MAX_SKIPPED_FP16} steps in a row, all skipped"):
        skips.count(99, FINITE)
    assert skips.said == [99]  # before the run fails


def test_in_fp16_a_loss_that_is_not_finite_is_explained_at_once_and_once(skips):
    skips.count(0, FINITE)
    skips.count(1, NAN)
    skips.count(2, NAN, is_skipped=False)
    skips.count(3, NAN)
    assert skips.said == [1]


def test_in_fp16_a_scale_of_1_is_to_blame_no_more(skips):
    skips.engine.scale = 1.0
    skips.count(4, FINITE)
    assert skips.said == [4]


def test_in_other_dtypes_the_first_skipped_step_is_explained(skips):
    skips.engine.fp16_enabled = lambda: False
    skips.count(2, FINITE)
    assert skips.said == [2]
