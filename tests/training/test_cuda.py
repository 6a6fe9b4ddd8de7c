"""What only a CUDA device can show. Skipped elsewhere: nobody has run it yet."""

from __future__ import annotations

import pytest
import torch

from snake_dist.run.finetune import finetune
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, tiny_config, tiny_data

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("stage", [2, 3])
def test_it_trains_in_low_precision(tmp_path, llama_dir, dtype, stage):
    output = tmp_path / "run"
    options = {"base_dtype": dtype, "ds": ROOT / f"ds_configs/zero{stage}.json", "max_steps": 10, "play_games": 2}
    run_on_ranks(finetune, 1, tiny_config(llama_dir, tiny_data(tmp_path / "data"), output, **options))
    losses = logged(output, "train/loss")
    assert losses[-1] < losses[0]
