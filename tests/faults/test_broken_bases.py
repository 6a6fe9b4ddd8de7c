"""A zoo of broken bases, adapters and data for every command that takes one: each ends in one line that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snake_dist.errors import InputError
from snake_dist.verbs import analyse, correct, export, plan, play, train
from tests.support.runs import tiny_data
from tests.support.tiny_models import tiny_adapter, tiny_llama

WEIGHTS = "model.safetensors"


def _config(base: Path, **changes: Any) -> None:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _shards(base: Path) -> None:
    (base / WEIGHTS).rename(base / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(shards))


def _without_head(base: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(base).save_pretrained(base)


def _without_a_layer(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})


def _as_adapter(base: Path) -> None:
    for path in base.iterdir():
        path.unlink()
    (base / "adapter_config.json").write_text("{}")


BASES: dict[str, tuple[Callable[[Path], Any], str, bool]] = {
    # what breaks it, what the line says, whether the configuration alone tells (so that a plan sees it too)
    "nothing there": (lambda base: shutil.rmtree(base), "cannot be found or read", True),
    "empty": (lambda base: [path.unlink() for path in base.iterdir()], "cannot be found or read", True),
    "no weights": (lambda base: (base / WEIGHTS).unlink(), "has no weights: model.safetensors, ", False),
    "git-lfs pointer": (
        lambda base: (base / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "model.safetensors: is a git-lfs pointer, not the weights: run git lfs pull",
        False,
    ),
    "torn": (lambda base: _cut(base / WEIGHTS), "model.safetensors: cannot be read, copy it again", False),
    "a shard is missing": (_shards, "1 of 2 files of its weights are missing, .* model-00002-of-00002", False),
    "index": (lambda base: (base / f"{WEIGHTS}.index.json").write_text("[]"), "is no index of weights", False),
    "no head": (_without_head, r"have no output head \(lm_head.weight\)", False),
    "a layer is missing": (_without_a_layer, "lack 1 of the model's weights, .* model.layers.1.mlp.up_proj", False),
    "other shapes": (lambda base: _config(base, intermediate_size=40), "its weights cannot be loaded", False),
    "gptq": (
        lambda base: _config(base, quantization_config={"quant_method": "gptq", "bits": 4}),
        "is quantized already .gptq",
        True,
    ),
    "bert": (lambda base: _config(base, model_type="vit"), "'vit', which is no causal language model", True),
    "unknown type": (lambda base: _config(base, model_type="unheard_of"), "cannot be found or read", True),
    "own code": (
        lambda base: _config(base, model_type="own", auto_map={"AutoConfig": "own.Own"}),
        "brings Python code of its own: add --trust-remote-code if you trust it",
        True,
    ),
    "config": (lambda base: (base / "config.json").write_text("{"), "cannot be found or read", True),
    "sizes": (lambda base: _config(base, num_attention_heads="many"), "cannot be found or read|no model can be", True),
    "tokenizer": (lambda base: (base / "tokenizer.json").write_text("{"), "has no readable tokenizer", False),
    "an adapter": (_as_adapter, "is an adapter: name its base model here, and the adapter with --init-adapter", True),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data"), games=2)


def ends_in_a_line(main: Callable[[list[str]], None], words: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        main([str(word) for word in words])
    assert len(str(error.value)) < 900


@pytest.mark.parametrize("kind", BASES)
def test_a_broken_base_ends_every_command_in_a_line(kind: str, tmp_path: Path, llama_dir: Path, data: Path) -> None:
    breaks, message, in_config = BASES[kind]
    base = Path(shutil.copytree(llama_dir, tmp_path / "base"))
    adapter = tiny_adapter(tmp_path / "adapter", base, base_model_revision=None)
    breaks(base)
    run = ["--base-dtype", "float32", "--dropout", 0, "--micro-batch-size", 2, "--global-batch-size", 4]
    run += ["--max-steps", 1, "--play-games", 0, "--eval-games", 0, "--wandb-mode", "disabled"]
    ends_in_a_line(train.main, ["--base-model", base, "--data", data, "--output-dir", tmp_path / "run", *run], message)
    assert not (tmp_path / "run" / "lora_adapters").exists()
    games = ["--games", 1, "--max-steps", 1]
    ends_in_a_line(play.main, ["--player", "base", "--base-model", base, *games], message)
    if kind != "tokenizer":  # the adapter has one of its own
        ends_in_a_line(play.main, ["--player", "adapter", adapter, *games], message)
        ends_in_a_line(export.main, ["--adapter", adapter, "--merge", tmp_path / "merged"], message)
    if in_config:
        ends_in_a_line(plan.main, ["--base-model", base, "--gpus", 1, "--gpu-memory", "8GiB"], message)


def _weights(adapter: Path, text: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(text)


ADAPTERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing there": (shutil.rmtree, "no readable adapter_metadata.json|damaged or missing"),
    "torn": (lambda adapter: _weights(adapter, b"torn"), "damaged or missing: adapter_model.safetensors"),
    "no weights": (lambda adapter: (adapter / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "metadata": (lambda adapter: (adapter / "adapter_metadata.json").write_text("{"), "adapter_metadata.json"),
    "config": (lambda adapter: (adapter / "adapter_config.json").write_text("{"), "damaged .*adapter_config.json"),
    "tokenizer": (lambda adapter: (adapter / "tokenizer.json").write_text("{"), "damaged or missing: tokenizer.json"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_broken_adapter_ends_every_command_in_a_line(kind: str, tmp_path: Path, llama_dir: Path, data: Path) -> None:
    breaks, message = ADAPTERS[kind]
    adapter = tiny_adapter(tmp_path / "adapter", llama_dir, base_model_revision=None)
    breaks(adapter)
    ends_in_a_line(play.main, ["--player", "adapter", adapter, "--games", 1], message)
    ends_in_a_line(export.main, ["--adapter", adapter, "--merge", tmp_path / "merged"], message)
    run = ["--base-model", llama_dir, "--data", data, "--base-dtype", "float32", "--output-dir", tmp_path / "run"]
    ends_in_a_line(train.main, [*run, "--init-adapter", adapter, "--wandb-mode", "disabled"], message)


DATA: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no|empty"),
    "binary": (bytes(range(256)) * 8, "lines.jsonl"),
    "other columns": (b'{"a": 1}\n' * 20, "lines.jsonl:1"),
    "torn line": (b'{"prompt": "a", "completion": "b"}\n' * 9 + b'{"prompt": "a", "compl', "lines.jsonl:10"),
    "numbers": (b'{"prompt": 1, "completion": 2}\n' * 20, "lines.jsonl:1"),
    "lists": (b"[1, 2]\n" * 20, "lines.jsonl"),
}


@pytest.mark.parametrize("kind", DATA)
def test_broken_data_end_every_command_in_a_line(kind: str, tmp_path: Path, llama_dir: Path) -> None:
    text, message = DATA[kind]
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(text)
    run = ["--base-model", llama_dir, "--data", lines, "--base-dtype", "float32", "--output-dir", tmp_path / "run"]
    ends_in_a_line(train.main, [*run, "--wandb-mode", "disabled"], message)
    ends_in_a_line(
        plan.main, ["--base-model", llama_dir, "--gpus", 1, "--gpu-memory", "8GiB", "--data", lines], "lines"
    )
    ends_in_a_line(analyse.main, ["--games", lines], "lines.jsonl")
    ends_in_a_line(correct.main, ["--games", lines, "--output", tmp_path / "corrections"], "lines.jsonl")
    ends_in_a_line(play.main, ["--player", "greedy", "--games", 1, "--human-log", lines], "lines.jsonl")


def test_an_architecture_that_cannot_be_adapted_is_refused_before_the_data_are_read(tmp_path: Path, data: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    base = tiny_llama(tmp_path / "base")
    small = MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, vocab_size=300)
    (base / WEIGHTS).unlink()
    MambaForCausalLM(small).save_pretrained(base)
    run = ["--base-model", base, "--data", data, "--base-dtype", "float32", "--output-dir", tmp_path / "run"]
    ends_in_a_line(train.main, [*run, "--wandb-mode", "disabled"], "--adapter lora: PEFT refuses it")
