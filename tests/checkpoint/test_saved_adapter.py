"""The saved adapter equals the trained one at every ZeRO stage, and plain PEFT can load it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snake_dist.checkpoint.saved_adapter import prove_adapter, read_metadata
from snake_dist.errors import InputError
from snake_dist.run.model_card import adapter_metadata, model_card
from snake_dist.run.preparation import prepare
from snake_dist.run.session import Session
from snake_dist.run.training import load_model, train_model
from snake_dist.segments import Segments
from snake_dist.training.metrics import SilentLog
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data
from tests.support.tiny_models import tiny_llama

TOKENS = list(range(5, 25))


def train_save_and_answer(config, directory: str):
    """Train on this rank and save; the logits of the adapter's tensors in the training precision, in memory."""
    import torch
    from peft import set_peft_model_state_dict

    from snake_dist.checkpoint.plain_lora import plain_adapter
    from snake_dist.checkpoint.saved_adapter import save_adapter
    from snake_dist.cluster.world import agree, world_from_environment

    run = prepare(config, world_from_environment())
    model, collate = load_model(run)
    trained = train_model(run, model, collate, SilentLog(), Session(run))
    plain = plain_adapter(trained.peft_config, trained.tensors, trained.start)
    metadata = adapter_metadata(run, plain.config, trained.summary)

    def save() -> None:
        save_adapter(Path(directory), plain, run.tokenizer, metadata, model_card(metadata))
        prove_adapter(Path(directory), plain.shapes, plain.zeros)

    agree(run.world, save)
    if config.output.ds.endswith("zero3.json"):  # the engine took this model apart: put the tensors on a new one
        model, _ = load_model(run)
        set_peft_model_state_dict(model, trained.tensors)
    with torch.inference_mode():
        logits = model.eval()(
            torch.tensor([TOKENS]),
            position_ids=torch.arange(len(TOKENS))[None],
            segments=Segments.of([0, len(TOKENS)]),
            use_cache=False,
        ).logits
    return logits.tolist(), (plain.shapes, plain.zeros)


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory) -> Path:
    """Wide enough that ZeRO-3 takes its matrices apart: it leaves parameters below a threshold whole."""
    return tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=128, intermediate_size=512)


@pytest.mark.parametrize("adapter", ["qlora", "adalora", "dora", "pissa"])
def test_plain_peft_puts_every_adapter_on_the_original_base(tmp_path, wide_llama, adapter):
    import torch
    from peft import PeftModel

    from snake_dist.checkpoint.adapter_base import describe_adapter
    from snake_dist.checkpoint.export import Export, export
    from snake_dist.evaluation.players.loading import load_model_players
    from snake_dist.model.base import load_base

    directory = tmp_path / "adapter"
    config = tiny_config(
        wide_llama, tiny_data(tmp_path / "data"), tmp_path / "run", ds=ROOT / "ds_configs/zero1.json", adapter=adapter
    )
    (logits, _), _ = run_on_ranks(train_save_and_answer, 2, config, str(directory))
    quantization = "nf4" if adapter == "qlora" else None
    base = load_base(str(wide_llama), "float32", quantization=quantization)
    tokens = torch.tensor([TOKENS])
    with torch.inference_mode():
        untrained = base(tokens).logits
        opened = PeftModel.from_pretrained(base, directory).eval()
        assert torch.allclose(opened(tokens).logits, torch.tensor(logits), atol=1e-3)
        with opened.disable_adapter():
            assert torch.equal(opened(tokens).logits, untrained)
        assert not torch.allclose(untrained, torch.tensor(logits), atol=1e-2)
        judged = load_model_players(describe_adapter(directory), torch.device("cpu"))["adapter"].model
        assert torch.allclose(judged(tokens).logits, torch.tensor(logits), atol=1e-3)
        export(Export(directory, tmp_path / "merged"))
        merged = load_base(str(tmp_path / "merged"), "float32")
        assert torch.allclose(merged(tokens).logits, torch.tensor(logits), atol=1e-2)
    assert read_metadata(directory)["quantization"] == quantization


@pytest.mark.parametrize("stage", [2, 3])
def test_plain_peft_reproduces_the_trained_model(tmp_path, wide_llama, stage):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    # ZeRO-3 keeps parameters of up to 10 x hidden size whole by default: take every one apart here.
    ds = json.loads((ROOT / f"ds_configs/zero{stage}.json").read_text())
    if stage == 3:
        ds["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (tmp_path / f"zero{stage}.json").write_text(json.dumps(ds))
    data = tiny_data(tmp_path / "data")
    directory = tmp_path / "adapter"
    config = tiny_config(wide_llama, data, tmp_path / "run", ds=tmp_path / f"zero{stage}.json", rank=8)
    (logits, (shapes, zeros)), _ = run_on_ranks(train_save_and_answer, 2, config, str(directory))

    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(wide_llama), directory).eval()
    # Logits of up to 20, through another attention kernel.
    with torch.inference_mode():
        assert torch.allclose(opened(torch.tensor([TOKENS])).logits, torch.tensor(logits), atol=5e-4)
        with opened.disable_adapter():
            assert not torch.allclose(opened(torch.tensor([TOKENS])).logits, torch.tensor(logits), atol=1e-2)

    metadata = read_metadata(directory)
    assert metadata["grid_size"] == 5
    assert metadata["base_model"] == str(wide_llama)
    assert metadata["peft_config"]["r"] == 8
    assert metadata["world_size"] == 2
    assert (directory / "tokenizer.json").exists()
    assert "base_model" in (directory / "README.md").read_text()
    check_that_damage_is_found(directory, shapes, zeros)


def check_that_damage_is_found(directory: Path, shapes, zeros) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from snake_dist.files import MANIFEST, sha256_of

    weights = directory / "adapter_model.safetensors"
    good = load_file(weights)

    def replace_by(tensors) -> None:
        save_file(tensors, weights)
        manifest = json.loads((directory / MANIFEST).read_text())
        (directory / MANIFEST).write_text(json.dumps(manifest | {weights.name: sha256_of(weights)}))

    name = next(name for name in good if "lora_B" in name)
    replace_by({**good, name: torch.empty(0)})  # what ZeRO-3 writes without a gather
    with pytest.raises(InputError, match=r"1 of \d+ tensors are missing or of a wrong shape"):
        prove_adapter(directory, shapes, zeros)
    replace_by({other: tensor for other, tensor in good.items() if other != name})
    with pytest.raises(InputError, match=r"1 of \d+ tensors are missing"):
        prove_adapter(directory, shapes, zeros)
    replace_by({key: torch.zeros_like(tensor) if "lora_B" in key else tensor for key, tensor in good.items()})
    with pytest.raises(InputError, match="not trained"):
        prove_adapter(directory, shapes, zeros)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"damaged or missing: adapter_model\.safetensors"):
        prove_adapter(directory, shapes, zeros)


def test_what_is_no_adapter_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no readable adapter_metadata\.json"):
        read_metadata(tmp_path)
    (tmp_path / "adapter_metadata.json").write_text("[]")
    with pytest.raises(InputError, match="is no JSON object, or"):
        read_metadata(tmp_path)
