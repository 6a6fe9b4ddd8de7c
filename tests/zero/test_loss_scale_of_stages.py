"""fp16: every ZeRO stage skips the same steps and divides the gradients by the scale that they were multiplied with."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from tests.support.ranks import run_on_ranks

FP16 = {"enabled": True, "initial_scale_power": 4, "loss_scale_window": 3, "hysteresis": 2}
INFINITE = {0, 1, 6, 7}
"""Steps whose gradient has an infinity."""
LARGE = 2500.0
"""Gradient of the last step: 2500 x 16 is an fp16 number, the sum of two is not."""
NUM_STEPS = 14
LEARNING_RATE = 2**-6
SCALES = [16, 8, 8, 8, 8, 16, 16, 8, 8, 8, 8, 16, 16, 16]
"""After each step: the first overflow is let pass, the second halves, three good steps in a row double."""


def steps_of(stages):
    """On a rank: (scale after the step, skipped?, gradient norm) of each step of each stage."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    from snake_dist.cluster.world import start_process_group, world_from_environment
    from snake_dist.zero.engine import backward, gradient_norm, start_engine, take_step, was_skipped
    from snake_dist.zero.parameters import loss_scale

    start_process_group(world_from_environment())
    found = []
    with patch.object(type(get_accelerator()), "is_fp16_supported", lambda _self: True):
        for stage in stages:
            model = torch.nn.Linear(4, 1, bias=False).half()
            torch.nn.init.constant_(model.weight, 0.5)
            config = {
                "train_micro_batch_size_per_gpu": 1,
                "zero_optimization": {"stage": stage},
                "fp16": FP16,
                "gradient_clipping": 0.0,
                "optimizer": {"type": "SGD", "params": {"lr": LEARNING_RATE}},
                "zero_allow_untested_optimizer": True,
            }
            engine = start_engine(model, config)
            steps = []
            for step in range(NUM_STEPS):
                value = float("inf") if step in INFINITE else LARGE if step == NUM_STEPS - 1 else 1.0
                inputs = torch.full((1, 4), value, dtype=torch.float16)
                backward(engine, engine(inputs).sum())
                take_step(engine)
                steps.append((loss_scale(engine), was_skipped(engine), gradient_norm(engine)))
            with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=stage == 3):
                weight = model.weight.detach().float().flatten().tolist()
            found.append((steps, weight))
            engine.destroy()
    return found


@pytest.fixture(scope="module")
def measured():
    return run_on_ranks(steps_of, 2, (0, 1, 2, 3))[0]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stages_skip_the_same_steps_and_train_the_same(measured, stage):
    steps, weight = measured[stage]
    scales, skipped, norms = zip(*steps, strict=True)
    assert {step for step, skip in enumerate(skipped) if skip} == INFINITE
    assert list(scales) == SCALES
    # The gradient of each of the four weights is 1, also in the steps after which the scale is another.
    assert list(norms) == [None if step in INFINITE else 2.0 for step in range(NUM_STEPS - 1)] + [2 * LARGE]
    trained = 0.5 - LEARNING_RATE * (NUM_STEPS - 1 - len(INFINITE) + LARGE)
    assert weight == [float(torch.tensor(trained, dtype=torch.float16))] * 4
