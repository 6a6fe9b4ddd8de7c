"""The judge begins when nothing of the training is left in memory: one base model at a time."""

from __future__ import annotations

import weakref
from unittest.mock import patch

import pytest

from snake_dist.run import finetune, restore
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data


def bytes_left(module):
    """Bytes of the weights that `module` still holds on this rank."""
    shards = [getattr(parameter, "ds_tensor", parameter) for parameter in module.parameters()]
    return sum(tensor.nbytes for tensor in [*shards, *module.parameters()])


def left_in_judge(config):
    """What the judge finds of the training's engine, optimizer and model: names of what is alive, bytes of weights."""
    references = {}
    start, judge = restore.start_engine, finetune.judge_run
    left = ["the judge was never called"]

    def start_and_watch(*args, **options):
        engine = start(*args, **options)
        references.update(engine=weakref.ref(engine), optimizer=weakref.ref(engine.optimizer))
        references["model"] = weakref.ref(engine.module)
        return engine

    def look_and_judge(*args):
        nonlocal left
        alive = {name: reference() for name, reference in references.items() if reference() is not None}
        left = sorted(alive), bytes_left(alive["model"]) if "model" in alive else 0
        return judge(*args)

    with patch.object(restore, "start_engine", start_and_watch), patch.object(finetune, "judge_run", look_and_judge):
        finetune.finetune(config)
    return left


@pytest.mark.parametrize("stage", [2, 3])
def test_the_trained_model_is_gone_before_the_judge_loads_its_own(tmp_path, llama_dir, stage):
    data = tiny_data(tmp_path / "data")
    flags = {"ds": ROOT / f"ds_configs/zero{stage}.json", "play_games": 1, "eval_games": 1, "max_steps": 2}
    config = tiny_config(llama_dir, data, tmp_path / "run", **flags)
    for names, num_bytes in run_on_ranks(left_in_judge, 2, config):
        assert num_bytes == 0
        assert stage == 3 or names == []
