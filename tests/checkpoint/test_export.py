"""A merged model is the adapter on its base, for programs that know nothing of adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from snake_dist.checkpoint.export import Export, export
from snake_dist.errors import InputError
from tests.support.processes import launcher, run_program
from tests.support.tiny_models import tiny_adapter


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_the_merged_model_answers_as_the_adapter(tmp_path: Path, llama_dir: Path, quantization: str | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from snake_dist.checkpoint.adapter_base import describe_adapter
    from snake_dist.evaluation.players.loading import load_model_players

    adapter, merged = tiny_adapter(tmp_path / "adapter", llama_dir, quantization=quantization), tmp_path / "merged"
    assert export(Export(adapter, merged)) == "float32"
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    players = load_model_players(describe_adapter(adapter), torch.device("cpu"))
    tokens = torch.tensor([AutoTokenizer.from_pretrained(merged)("12 at (3,4)").input_ids])
    with torch.inference_mode():
        logits, adapted = model(tokens).logits, players["adapter"].model(tokens).logits
        with players["adapter"].model.disable_adapter():
            untrained = players["base"].model(tokens).logits
    assert torch.allclose(logits, adapted, atol=1e-2)  # of up to 20; 4-bit products are rounded otherwise
    assert not torch.allclose(logits, untrained, atol=1)
    assert (merged / "adapter_metadata.json").read_bytes() == (adapter / "adapter_metadata.json").read_bytes()


def test_what_cannot_be_merged_is_named(tmp_path: Path, llama_dir: Path) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", llama_dir)
    with pytest.raises(InputError, match="exists: name a new directory"):
        export(Export(adapter, tmp_path))
    with pytest.raises(InputError, match="--merge /proc/merged: cannot be written"):
        export(Export(adapter, Path("/proc/merged")))
    other = tiny_adapter(tmp_path / "other", llama_dir, base_model_revision="sha256:1")
    with pytest.raises(InputError, match=r"was trained on revision sha256:1 of .*; .* has sha256:"):
        export(Export(other, tmp_path / "merged"))
    torn = shutil.copytree(llama_dir, tmp_path / "torn")
    unread = tiny_adapter(tmp_path / "unread", torn, base_model_revision=None)
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(
        InputError, match=r"--adapter .*/unread: its base model .*/torn cannot be loaded; .* copy it again"
    ):
        export(Export(unread, tmp_path / "merged"))
    (adapter / "adapter_model.safetensors").write_bytes(b"torn")
    done = run_program([*launcher("export"), "--adapter", adapter, "--merge", tmp_path / "merged"], tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"export.py: error: --adapter {adapter}: damaged or missing: adapter_model.safetensors\n"
    assert not (tmp_path / "merged").exists()
