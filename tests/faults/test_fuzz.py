"""Bad input of every kind: one line of error or a correct result, never a traceback or a wrong one."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from snake_dist.checkpoint import checkpoints
from snake_dist.checkpoint.saved_adapter import read_metadata
from snake_dist.data.records import read_records
from snake_dist.errors import InputError
from snake_dist.files import MANIFEST, sha256_of
from snake_dist.model.base import choose_dtype
from snake_dist.run.config import RunConfig, parse_run_config
from snake_dist.zero.config import build_ds_config, fill_ds_config, read_ds_config
from tests.support.runs import RUN_VALUES

FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "1", "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
LINE = json.dumps({"prompt": "head 36 apple 96 body 46", "completion": "Move: UP", "game_id": 3}).encode()


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """`content` cut short, or with some bytes replaced, added or taken out."""
    end = draw(st.integers(0, len(content)))
    if draw(st.booleans()):
        return content[:end]
    start = draw(st.integers(0, end))
    return content[:start] + draw(st.binary(max_size=6)) + content[end:]


def one_line(problem: InputError) -> None:
    assert str(problem).strip()
    assert "Traceback" not in str(problem)


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@FUZZ
@given(st.lists(damaged(LINE) | st.just(LINE) | JSON.map(lambda v: json.dumps(v).encode()), min_size=1, max_size=4))
def test_jsonl_lines(place, lines):
    path = place / "lines.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    try:
        records = list(read_records([path], bad_lines="stop"))
    except InputError as problem:
        one_line(problem)
        return
    assert all(isinstance(r.prompt, str) and isinstance(r.completion, str) and r.completion for r in records)


@st.composite
def ds_configs(draw: Any) -> Any:
    """A config of ours in which one or two values, at any depth, are something else."""
    config: Any = json.loads(json.dumps(build_ds_config(draw(st.sampled_from([0, 1, 2, 3])))))
    for _ in range(draw(st.integers(1, 2))):
        block = config
        while True:
            key = draw(st.sampled_from([*block, "scheduler", "fp16", "train_batch_size", "params"]))
            if isinstance(block.get(key), dict) and block[key] and draw(st.booleans()):
                block = block[key]
                continue
            block[key] = draw(JSON)
            break
    return config


@FUZZ
@given(ds_configs() | JSON)
@example({"optimizer": {"params": 3}})
@example({"zero_optimization": {"stage": True}})
@example({"scheduler": 3})
@example({"bf16": {"enabled": "yes"}})
def test_deepspeed_json(place, config):
    path = place / "ds.json"
    path.write_text(json.dumps(config))
    try:
        given_config = read_ds_config(str(path))
        dtype = choose_dtype("auto", given_config)
        filled = fill_ds_config(given_config, replace(RUN_VALUES, dtype=dtype), hidden_size=64)
    except InputError as problem:
        one_line(problem)
        return
    assert filled["train_batch_size"] == 16
    assert filled["bf16"]["enabled"] is (dtype == "bfloat16")
    assert '"auto"' not in json.dumps(filled)


KEYS = st.sampled_from(sorted(RunConfig().flat()))


@settings(FUZZ, max_examples=40)  # tyro takes its time
@given(st.dictionaries(KEYS | st.text(max_size=6), JSON, max_size=2).map(json.dumps) | st.text(max_size=30))
def test_recipe_yaml(place, text):
    path = place / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        config = parse_run_config(["--config", str(path)])
    except InputError as problem:
        one_line(problem)
        return
    assert isinstance(config, RunConfig)


@FUZZ
@given(JSON | st.binary(max_size=30), st.booleans())
def test_adapter_directories(place, metadata, has_weights):
    directory = place / "adapter"
    directory.mkdir(exist_ok=True)
    content = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    (directory / "adapter_metadata.json").write_bytes(content)
    (directory / "adapter_model.safetensors").unlink(missing_ok=True)
    if has_weights:
        (directory / "adapter_model.safetensors").write_bytes(b"x")
    try:
        found = read_metadata(directory)
    except InputError as problem:
        one_line(problem)
        return
    assert isinstance(found, dict)


@pytest.fixture(scope="module")
def checkpoint(place) -> tuple[Path, dict[Path, bytes]]:
    """A good checkpoint, and its files."""
    import torch

    numbers = {"fingerprint": {}, "optimizer": {"optimizer_steps": 1, "loss_scaler": {}}, "held_out_loss": None}
    path = checkpoints.commit(place, 4, {"master/x": torch.zeros(10)}, numbers)
    return path, {file: file.read_bytes() for file in path.iterdir()}


@FUZZ
@given(st.data())
def test_checkpoint_directories(checkpoint, data):
    """Whether or not the manifest vouches for the damage."""
    checkpoint, originals = checkpoint
    for path, original in originals.items():
        path.write_bytes(original)
    name = data.draw(st.sampled_from(["state.json", "state.safetensors", "manifest.json"]))
    content = originals[checkpoint / name]
    if name == "state.json" and data.draw(st.booleans()):
        numbers = json.loads(content)
        numbers[data.draw(st.sampled_from(sorted(numbers)))] = data.draw(JSON)
        changed = json.dumps(numbers).encode()
    else:
        changed = data.draw(damaged(content) | JSON.map(lambda value: json.dumps(value).encode()))
    (checkpoint / name).write_bytes(changed)
    vouched = name != MANIFEST and data.draw(st.booleans())
    if vouched:
        manifest = json.loads(originals[checkpoint / MANIFEST])
        (checkpoint / MANIFEST).write_text(json.dumps(manifest | {name: sha256_of(checkpoint / name)}))
    try:
        found = checkpoints.verify(checkpoint)
        tensors = checkpoints.read_tensors(found)
    except InputError as problem:
        one_line(problem)
    else:
        assert found.step == 4
        assert isinstance(tensors, dict)
        if not vouched:
            assert (checkpoint / "state.safetensors").read_bytes() == originals[checkpoint / "state.safetensors"]
