"""A run can start from a saved adapter; one that does not fit fails before a weight is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from snake_dist.errors import InputError
from snake_dist.files import ADAPTER_DIR
from snake_dist.run.finetune import finetune
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, tiny_config, tiny_data
from tests.support.tiny_models import tiny_llama


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A directory with model, data and first: a run of three steps on a model that ZeRO-3 takes apart."""
    directory = tmp_path_factory.mktemp("trained")
    tiny_llama(directory / "model", hidden_size=128, intermediate_size=512)
    finetune(tiny_config(directory / "model", tiny_data(directory / "data"), directory / "first"))
    return directory


def test_a_run_starts_with_the_very_weights_of_the_adapter(trained: Path, tmp_path: Path) -> None:
    config = tiny_config(
        trained / "model",
        trained / "data",
        tmp_path / "second",
        ds=ROOT / "ds_configs/zero3.json",
        init_adapter=trained / "first" / ADAPTER_DIR,
        max_steps=1,
        learning_rate=1e-20,
        warmup_share=0,
    )
    run_on_ranks(finetune, 2, config)
    first, second = adapter_tensors(trained / "first"), adapter_tensors(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_an_adapter_that_does_not_fit_is_refused_with_both_values(trained: Path, tmp_path: Path) -> None:
    adapter = trained / "first" / ADAPTER_DIR

    def refused(message: str, **flags: object) -> None:
        options = {"init_adapter": adapter, **flags}
        with pytest.raises(InputError, match=message):
            finetune(tiny_config(trained / "model", trained / "data", tmp_path / "no", **options))
        assert not list(tmp_path.glob("no/*"))

    refused("has --rank 4, not 8", rank=8)
    refused("has --alpha 32.0, not 5.0|has --alpha 32, not 5", alpha=5)
    refused("has --adapter lora, not dora", adapter="dora")
    refused("has --target-modules .*v_proj, not q_proj", target_modules="q_proj")
    refused("adalora saves other tensors than it trains", adapter="adalora")
    refused("damaged or missing: the directory", init_adapter=tmp_path / "nowhere")
    damaged = shutil.copytree(adapter, tmp_path / "damaged")
    config = json.loads((damaged / "adapter_config.json").read_text())
    (damaged / "adapter_config.json").write_text(json.dumps(config | {"r": 5}))
    refused("damaged or missing: adapter_config.json", init_adapter=damaged)
    other = tiny_llama(tmp_path / "other", hidden_size=64)
    with pytest.raises(InputError, match="has --base-model"):
        finetune(tiny_config(other, trained / "data", tmp_path / "no", init_adapter=adapter))


def test_resuming_does_not_start_from_the_adapter_again(trained: Path, tmp_path: Path) -> None:
    flags = {"init_adapter": trained / "first" / ADAPTER_DIR, "max_steps": 4, "save_every": 2, "resume": "auto"}
    whole = tiny_config(trained / "model", trained / "data", tmp_path / "whole", **flags)
    finetune(whole)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/step-00000004")
    status = json.loads((tmp_path / "cut/status.json").read_text())
    (tmp_path / "cut/status.json").write_text(json.dumps(status | {"state": "stopped", "step": 2}))
    finetune(tiny_config(trained / "model", trained / "data", tmp_path / "cut", **flags))
    first, second = adapter_tensors(tmp_path / "whole"), adapter_tensors(tmp_path / "cut")
    assert all(first[name].equal(second[name]) for name in first)
    other = tiny_config(
        trained / "model",
        trained / "data",
        tmp_path / "cut",
        **flags | {"init_adapter": tmp_path / "whole" / ADAPTER_DIR},
    )
    status = json.loads((tmp_path / "cut/status.json").read_text())
    (tmp_path / "cut/status.json").write_text(json.dumps(status | {"state": "stopped"}))
    with pytest.raises(InputError, match="--init-adapter was"):
        finetune(other)
