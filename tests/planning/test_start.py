"""The start under ZeRO-3: a rank's device never holds more than its shards and the weight that is moved."""

from __future__ import annotations

import json

import pytest

from snake_dist.model.adapters import AdapterConfig
from snake_dist.model.base import ModelConfig
from snake_dist.planning.memory import start_bytes
from snake_dist.planning.model_sizes import describe_model
from snake_dist.planning.shapes import Setup
from snake_dist.zero.config import build_ds_config
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data
from tests.support.tiny_models import tiny_llama

LAYERS = (2, 12)


def held_while_sharding(configs):
    """On a rank: for each run (bytes of the whole model, most bytes of shards and moved weights at one time)."""
    from unittest.mock import patch

    from deepspeed.runtime.zero.partition_parameters import Init

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.preparation import prepare
    from snake_dist.run.training import load_model
    from snake_dist.zero.engine import start_engine

    found = []
    for config in configs:
        run = prepare(config, world_from_environment())
        model, _ = load_model(run)
        whole, most = sum(parameter.nbytes for parameter in model.parameters()), 0
        shard = Init._zero_init_param

        def shard_and_count(self, parameter, shard=shard, model=model):
            nonlocal most
            # DeepSpeed has just moved this weight and cuts its shard from it; those after it wait on the host.
            sharded = [p for p in model.parameters() if getattr(p, "ds_tensor", None) is not None]
            whole_bytes = parameter.nbytes
            held = sum(p.ds_tensor.nbytes + p.data.nbytes for p in sharded)
            shard(self, parameter)
            most = max(most, held + whole_bytes + parameter.ds_tensor.nbytes)

        with patch.object(Init, "_zero_init_param", shard_and_count):
            start_engine(model, run.ds_config).destroy()
        found.append((whole, most))
    return found


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    directory = tmp_path_factory.mktemp("start")
    ds_config = build_ds_config(3)
    ds_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    ds = directory / "ds.json"
    ds.write_text(json.dumps(ds_config))
    data = tiny_data(directory / "data")
    models, configs = [], []
    for num_layers in LAYERS:
        models.append(tiny_llama(directory / f"model{num_layers}", hidden_size=64, num_hidden_layers=num_layers))
        configs.append(tiny_config(models[-1], data, directory / f"run{num_layers}", ds=ds, base_dtype="bfloat16"))
    return models, run_on_ranks(held_while_sharding, 2, configs)


def test_what_a_rank_holds_beside_its_shards_does_not_grow_with_the_base(started):
    _, per_rank = started
    for (small, small_peak), (large, large_peak) in per_rank:
        assert large > 3 * small
        beside = [peak - whole / 2 for whole, peak in ((small, small_peak), (large, large_peak))]
        assert beside[1] <= beside[0] + 64 * len(per_rank)  # paddings of uneven shards


def test_the_plan_counts_it(started):
    models, per_rank = started
    for number, directory in enumerate(models):
        model = describe_model(ModelConfig(base_model=str(directory)), AdapterConfig(rank=4))
        predicted = start_bytes(model, Setup(3, 2, "bfloat16"))
        for measured in per_rank:
            assert measured[number][1] == pytest.approx(predicted, rel=0.02)


def test_below_stage_3_the_start_holds_the_whole_base():
    from tests.planning.test_arithmetic import LLAMA_8B

    base = 2 * LLAMA_8B.num_base
    embedding = 4 * LLAMA_8B.vocabulary * LLAMA_8B.hidden_size
    for stage in range(3):
        assert start_bytes(LLAMA_8B, Setup(stage, 8)) == base + embedding
    assert start_bytes(LLAMA_8B, Setup(3, 8)) < base / 4
