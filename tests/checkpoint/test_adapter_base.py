"""Adapters whose base moved, whose model card was edited, which another program saved, or whose base has own code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from snake_dist.checkpoint.adapter_base import AdapterOptions, describe_adapter
from snake_dist.checkpoint.export import Export, export
from snake_dist.checkpoint.saved_adapter import check_init_adapter
from snake_dist.errors import InputError
from snake_dist.evaluation.players.loading import load_player
from snake_dist.game.rules import new_game
from snake_dist.model.adapters import AdapterConfig
from snake_dist.model.base import load_base, model_shape
from tests.support.processes import launcher, run_program
from tests.support.tiny_models import tiny_adapter, tiny_llama

STATES = [new_game(5, seed) for seed in range(4)]


def test_a_base_that_moved_is_named_and_compared(tmp_path: Path, llama_dir: Path) -> None:
    old = Path(shutil.copytree(llama_dir, tmp_path / "old"))
    adapter = tiny_adapter(tmp_path / "adapter", old, base_model_revision=model_shape(str(old)).revision)
    replies = load_player(adapter).replies(STATES)
    new = str(old.rename(tmp_path / "new"))
    with pytest.raises(
        InputError, match=r"its base model .*/old cannot be loaded; .* --base-model names its new place"
    ):
        load_player(adapter)
    assert load_player(adapter, base_model=new).replies(STATES) == replies
    assert describe_adapter(adapter, AdapterOptions(new)).base_model == str(old)
    assert export(Export(adapter, tmp_path / "merged", base_model=new)) == "float32"
    other = tiny_llama(tmp_path / "other", hidden_size=16)
    with pytest.raises(InputError, match=r"was trained on revision sha256:\w+ of .*/old; .*/other has sha256:"):
        load_player(adapter, base_model=str(other))
    corrected = Path(shutil.copytree(adapter, tmp_path / "corrected"))
    metadata = corrected / "adapter_metadata.json"
    metadata.write_text(metadata.read_text().replace(str(old), new))
    with pytest.raises(
        InputError, match=r"damaged .*adapter_metadata.json; .* undo that, and name it with --base-model"
    ):
        load_player(corrected)
    play = [*launcher("play"), "--player", "adapter", adapter, "--games", "1"]
    done = run_program([*play, "--base-model", new], tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_program(play, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_model_card_may_be_edited_and_weights_may_not(tmp_path: Path, llama_dir: Path) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", llama_dir)
    (adapter / "README.md").write_text("Trained for the demo.\n")
    describe_adapter(adapter)
    (adapter / "README.md").unlink()
    describe_adapter(adapter)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged or missing: adapter_model.safetensors"):
        describe_adapter(adapter)


def foreign(directory: Path, base: Path, **options: object) -> Path:
    """An adapter as plain PEFT saves one."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights=False, **options)  # type: ignore[arg-type]
    get_peft_model(load_base(str(base), "float32"), config).save_pretrained(str(directory))
    return directory


def test_an_adapter_of_another_program_plays_merges_and_starts_runs(tmp_path: Path, llama_dir: Path) -> None:
    adapter = foreign(tmp_path / "adapter", llama_dir, target_modules=["q_proj", "v_proj"])
    with pytest.raises(InputError, match="to play it, say with --style and --template how its prompts were written"):
        load_player(adapter)
    with pytest.raises(InputError, match="say with --template how"):
        load_player(adapter, style="compact")
    player = load_player(adapter, style="compact", template="plain")
    assert player.replies(STATES) != replace(player, adapter=False).replies(STATES)
    export(Export(adapter, tmp_path / "merged"))
    ids = torch.tensor([[5, 6, 7, 8]])
    merged = load_base(str(tmp_path / "merged"), "float32")
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, player.model(ids).logits, atol=1e-4)
    config = AdapterConfig("lora", rank=4, alpha=8, target_modules=("q_proj", "v_proj"))
    check_init_adapter(adapter, config, "sha256:1")
    check_init_adapter(adapter, replace(config, adapter="qlora"), "sha256:1")
    with pytest.raises(InputError, match=r"--init-adapter .*: has --rank 4, not 16; --alpha 8, not 32"):
        check_init_adapter(adapter, AdapterConfig("lora", target_modules=("q_proj", "v_proj")), "sha256:1")
    with pytest.raises(InputError, match="has --adapter lora, not dora"):
        check_init_adapter(adapter, replace(config, adapter="dora"), "sha256:1")
    (adapter / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="adapter_model.safetensors cannot be read"):
        check_init_adapter(adapter, config, "sha256:1")


def test_what_is_no_adapter_is_named(tmp_path: Path, llama_dir: Path) -> None:
    adapter = foreign(tmp_path / "adapter", llama_dir, target_modules=["q_proj"])
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    for text, message in (
        ("{", "adapter_config.json: cannot be read"),
        ("[]", "adapter_config.json: is no adapter's configuration"),
        (
            json.dumps(config | {"base_model_name_or_path": None}),
            "do not say its base model: name it with --base-model",
        ),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            describe_adapter(adapter)
    path.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    assert describe_adapter(adapter, AdapterOptions(str(llama_dir))).location == str(llama_dir)
    with pytest.raises(InputError, match="no readable adapter_metadata.json"):
        describe_adapter(tmp_path)


def test_own_code_of_a_base_runs_only_where_it_is_asked_for(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(llama_dir, tmp_path / "base"))
    (base / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own_model'\n"
    )
    (base / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\n\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((base / "config.json").read_text())
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (base / "config.json").write_text(json.dumps(config | {"model_type": "own_model", "auto_map": own}))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    adapter = tiny_adapter(tmp_path / "adapter", llama_dir, base_model=str(base), base_model_revision=None)
    assert "trust_remote_code" not in (adapter / "adapter_metadata.json").read_text()
    with pytest.raises(InputError, match="its base model .* cannot be loaded"):
        load_player(adapter)
    assert load_player(adapter, trust_remote_code=True).replies(STATES) == load_player(
        adapter, base_model=str(llama_dir)
    ).replies(STATES)
    with pytest.raises(InputError, match="its base model .* cannot be loaded"):
        export(Export(adapter, tmp_path / "merged"))
    export(Export(adapter, tmp_path / "merged", trust_remote_code=True))
