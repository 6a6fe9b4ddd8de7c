"""Experts, output heads and embeddings: adapters of them train, are saved, resume, and plain PEFT gives their loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snake_dist.model import adapters
from snake_dist.run import finetune
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, tiny_config, tiny_data
from tests.support.tiny_models import MIXTURES, tiny_llama, tiny_model

FUSED = "all-linear,experts.gate_up_proj,experts.down_proj,router"
"""What GPT-OSS needs: its experts have never been layers, so all-linear leaves them out."""


def held_out_loss(model: Any, run: Any) -> float:
    """The loss of a plain model, one example at a time."""
    import torch

    from snake_dist.data.packing import pad
    from snake_dist.training.loss import forward_trained, loss_sum

    total, number = 0.0, 0
    with torch.inference_mode():
        for example in run.data.eval_examples:
            logits_KV, labels_K, _ = forward_trained(model, pad([run.data.eval_dataset[example]]))
            total, number = total + loss_sum(logits_KV, labels_K).item(), number + len(labels_K)
    return total / number


def train_and_check(configs: list[Any]) -> list[float]:
    """On a rank: train each, save it, and ask plain PEFT, the merged model and the judge's player; the losses."""
    import torch
    from peft import PeftModel

    from snake_dist.checkpoint.adapter_base import describe_adapter
    from snake_dist.checkpoint.export import Export, export
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.evaluation.players.loading import load_model_players
    from snake_dist.game.rules import new_game
    from snake_dist.model.base import load_base
    from snake_dist.run.adapter_dir import save
    from snake_dist.run.preparation import prepare
    from snake_dist.run.session import Session
    from snake_dist.run.training import load_model, train_model
    from snake_dist.training.metrics import SilentLog

    losses = []
    for config in configs:
        run = prepare(config, world_from_environment())
        session = Session(run)
        model, collate = load_model(run)
        trained = train_model(run, model, collate, SilentLog(), session)
        directory = save(run, trained)
        losses.append(trained.summary["eval/loss"])
        if not run.world.is_main:
            continue
        name = f"{run.base_location}, {config.adapter}"
        quantization = "nf4" if config.adapter.adapter == "qlora" else None
        base = load_base(run.base_location, "float32", quantization=quantization)
        untrained = held_out_loss(base, run)
        reported = losses[-1]
        assert held_out_loss(PeftModel.from_pretrained(base, str(directory)).eval(), run) == pytest.approx(
            reported, abs=2e-4
        ), name
        assert abs(reported - untrained) > 1e-3, name
        export(Export(directory, run.output_dir / "merged"))
        merged = load_base(str(run.output_dir / "merged"), "float32")
        assert held_out_loss(merged, run) == pytest.approx(reported, abs=2e-3), name
        players = load_model_players(describe_adapter(directory), torch.device("cpu"))
        assert len(players["adapter"].replies([new_game(5, seed=1)])) == 1, name
    return losses


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ZeRO-3 that takes every matrix apart: by default it leaves small ones whole."""
    ds = json.loads((ROOT / "ds_configs/zero3.json").read_text())
    ds["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = tmp_path_factory.mktemp("ds") / "zero3.json"
    path.write_text(json.dumps(ds))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"), games=3)


def test_experts_are_what_plain_peft_loads(tmp_path: Path, data: Path, sharded: Path) -> None:
    bases = {family: tiny_model(tmp_path / family, family) for family in MIXTURES}
    each: list[tuple[str, dict[str, Any]]] = [
        *((family, {}) for family in MIXTURES if family != "gpt_oss"),
        ("gpt_oss", {"target_modules": FUSED, "adapter": "rslora"}),
        ("mixtral", {"ds": sharded}),
        ("mixtral", {"adapter": "qlora"}),
        ("deepseek_v3", {"adapter": "adalora", "learning_rate": 0.1}),
        ("deepseek_v3", {"target_modules": "shared_experts.down_proj,experts.down_proj"}),
    ]
    configs = [
        tiny_config(bases[family], data, tmp_path / f"run-{number}", eval_examples=6, **flags)
        for number, (family, flags) in enumerate(each)
    ]
    losses = run_on_ranks(train_and_check, 2, configs)[0]
    assert losses[len(MIXTURES)] == pytest.approx(losses[0], abs=1e-4)  # ZeRO-3 trains as ZeRO-2 does


@pytest.mark.parametrize(
    ("family", "flags"), [("mixtral", {}), ("deepseek_v3", {}), ("llama", {"target_modules": "lm_head,q_proj"})]
)
def test_a_run_that_could_not_be_saved_finishes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, family: str, flags: dict[str, Any]
) -> None:
    base = tiny_model(tmp_path / "base", family)
    config = tiny_config(base, data, tmp_path / "run", resume="auto", max_steps=2, **flags)
    real = adapters.find_targets

    def as_before(*args: Any, **named: Any) -> Any:
        """Without the layers beside experts, whose names PEFT takes for those of the experts."""
        return real(*args, **named).as_trained([])

    def unable(*_: Any) -> None:
        raise TypeError("'int' object is not iterable")

    with monkeypatch.context() as patched:
        patched.setattr(adapters, "find_targets", as_before)
        patched.setattr(finetune, "save", unable)
        with pytest.raises(TypeError):
            finetune.finetune(config)
    summary = finetune.finetune(config)
    assert summary["training"]["num_steps"] == 2
    tensors = adapter_tensors(tmp_path / "run")
    assert any("lm_head" in name if family == "llama" else "experts" in name for name in tensors)
    assert not any("mlp.gate_proj" in name for name in tensors)


def test_heads_and_embeddings_are_what_plain_peft_loads(tmp_path: Path, data: Path, sharded: Path) -> None:
    shape = {"max_position_embeddings": 512}
    tied = tiny_llama(tmp_path / "tied", tie_word_embeddings=True, **shape)
    own = tiny_llama(tmp_path / "own", **shape)
    each: list[tuple[Path, dict[str, Any]]] = [
        (own, {"target_modules": "lm_head,q_proj", "adapter": "dora"}),
        (own, {"target_modules": "embed_tokens", "ds": sharded}),
        (tied, {"target_modules": "lm_head", "adapter": "adalora", "learning_rate": 0.1}),
        (tied, {"target_modules": "all-linear,embed_tokens,lm_head", "adapter": "rslora"}),
        (tied, {"target_modules": "embed_tokens", "adapter": "dora"}),
        (tied, {"target_modules": "lm_head", "adapter": "qlora", "ds": sharded}),
    ]
    configs = [
        tiny_config(base, data, tmp_path / f"run-{number}", eval_examples=6, **flags)
        for number, (base, flags) in enumerate(each)
    ]
    run_on_ranks(train_and_check, 2, configs)
