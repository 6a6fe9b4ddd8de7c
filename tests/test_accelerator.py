"""Elementwise work is fused only where it can be; what cannot be compiled runs as it is written."""

from __future__ import annotations

import pytest
import torch

from snake_dist import accelerator


def test_on_a_cpu_a_fused_function_is_the_function():
    seen = []
    double = accelerator.fused(lambda x, *, times=2: seen.append(times) or x * times)
    assert double(torch.ones(2, 3), times=4).tolist() == [[4.0] * 3] * 2
    assert seen == [4]


def test_what_does_not_compile_runs_as_it_is_written(monkeypatch):
    monkeypatch.setattr(accelerator, "fuses", lambda _tensor: True)

    def compiled(_function, **_options):
        def fail(*_args):
            raise torch._dynamo.exc.TorchDynamoException("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    double = accelerator.fused(lambda x: x * 2)
    with pytest.warns(UserWarning, match="no compiler"):
        assert double(torch.ones(3, 1)).sum() == 6
    assert double(torch.ones(3, 1)).sum() == 6  # and tries no second time


def test_tensors_that_move_together_stay_what_they_are():
    tensors = {"a": torch.arange(5), "b": torch.arange(6, dtype=torch.int32).view(2, 3), "c": torch.empty(0)}
    moved = accelerator.moved_at_once(tensors, torch.device("cpu"))
    assert all(torch.equal(moved[name], tensor) for name, tensor in tensors.items())
