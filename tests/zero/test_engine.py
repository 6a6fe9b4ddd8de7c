from __future__ import annotations

import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from snake_dist.cluster.world import start_process_group, world_from_environment
from snake_dist.run import restore
from snake_dist.zero.engine import fuse_gradient_norm, start_engine
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data, train_each


def train_with_fused_norm(configs):
    def start(*args, **options):
        engine = start_engine(*args, **options)
        fuse_gradient_norm(engine.optimizer)
        return engine

    with patch.object(restore, "start_engine", start):
        return train_each(configs)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_fused_norm_is_deepspeeds(tmp_path, llama_dir, stage):
    data = tiny_data(tmp_path / "data")

    def config(name):
        return tiny_config(llama_dir, data, tmp_path / name, ds=f"ds_configs/zero{stage}.json")

    (fused, tensors), (plain, expected) = (
        run_on_ranks(train, 2, [config(name)])[0][0]
        for train, name in ((train_with_fused_norm, "fused"), (train_each, "plain"))
    )
    for metric in ("train/grad_norm", "train/loss"):
        assert fused[metric] == pytest.approx(plain[metric], rel=1e-5)
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-6)


def shard_norms(_):
    """What each of two ranks makes of gradients of which rank 1 has an infinite one, then none."""
    world = world_from_environment()
    start_process_group(world)
    optimizer = SimpleNamespace(dp_process_group=None, device=torch.device("cpu"))
    fuse_gradient_norm(optimizer)
    found = []
    for value in (math.inf, 4.0):
        gradients = [torch.full((1,), value if world.rank == 1 else 3.0)]
        optimizer.averaged_gradients = {0: gradients, 1: None}
        is_infinite = bool(optimizer.has_overflow_partitioned_grads_serial())
        found.append((is_infinite, float(optimizer.get_grad_norm_direct(gradients, None))))
    return found


def test_an_infinite_gradient_is_seen_and_the_norm_is_over_all_ranks():
    assert run_on_ranks(shard_norms, 2, None) == [[(False, -1.0), (False, 5.0)], [(True, -1.0), (False, 5.0)]]


class Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.num_ops = 0

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        self.num_ops += 1
        return func(*args, **(kwargs or {}))


def test_the_operations_of_the_fused_norm_do_not_grow_with_the_number_of_tensors():
    optimizer = SimpleNamespace(dp_process_group=None, device=torch.device("cpu"))
    fuse_gradient_norm(optimizer)
    counts = []
    for num_tensors in (2, 400):
        optimizer.averaged_gradients = {0: [torch.ones(3, dtype=torch.bfloat16) for _ in range(num_tensors)]}
        with Counting() as counting:
            optimizer.has_overflow_partitioned_grads_serial()
        counts.append(counting.num_ops)
    assert counts[0] == counts[1] <= 10
