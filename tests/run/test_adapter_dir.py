"""What would keep an adapter from being saved ends the run before its first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from snake_dist.checkpoint import saved_adapter
from snake_dist.errors import InputError
from snake_dist.files import ADAPTER_DIR, MANIFEST, sha256_of
from snake_dist.run import adapter_dir
from snake_dist.run.config import check_run_flags
from snake_dist.run.finetune import finetune
from tests.support.runs import tiny_config, tiny_data


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, llama_dir: Path) -> Path:
    """A finished run, and data beside it."""
    directory = tmp_path_factory.mktemp("first")
    finetune(tiny_config(llama_dir, tiny_data(directory / "data"), directory / "run", max_steps=1))
    return directory / "run"


def disordered_prompts(adapter: Path, copy: Path) -> Path:
    """A copy whose manifest is right, and whose prompts no reader takes: only the saving at the end reads them."""
    import numpy as np
    from safetensors.numpy import save_file

    shutil.copytree(adapter, copy)
    save_file({"prompt_hashes": np.array([2, 1], dtype=np.uint64)}, copy / saved_adapter.TRAINED_PROMPTS)
    manifest = json.loads((copy / MANIFEST).read_text())
    digest = sha256_of(copy / saved_adapter.TRAINED_PROMPTS)
    (copy / MANIFEST).write_text(json.dumps(manifest | {saved_adapter.TRAINED_PROMPTS: digest}))
    return copy


def test_what_a_save_refuses_is_refused_before_the_first_step(
    tmp_path: Path, llama_dir: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, name: str, **flags: object) -> None:
        output = tmp_path / name
        with pytest.raises(InputError, match=message):
            finetune(tiny_config(llama_dir, first.parent / "data", output, resume="auto", **flags))
        assert "train/loss" not in (output / "metrics.jsonl").read_text()
        assert not (output / "checkpoints").exists()
        assert not (output / ADAPTER_DIR.parent).exists()
        assert not (output / adapter_dir.REHEARSAL).exists()

    prompts = disordered_prompts(first / ADAPTER_DIR, tmp_path / "disordered")
    refused("prompt_hashes is not a sorted list", "prompts", init_adapter=prompts)

    real = adapter_dir.gather_adapter
    with monkeypatch.context() as patched:
        patched.setattr(adapter_dir, "gather_adapter", lambda model: dict(list(real(model).items())[1:]))
        refused("1 of 28 tensors are missing or of a wrong shape", "tensors")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(adapter_dir, "model_card", full)
        refused("No space left on device", "disk")
    # The run that was refused finishes once nothing stands in its way.
    finetune(tiny_config(llama_dir, first.parent / "data", tmp_path / "disk", resume="auto"))
    assert (tmp_path / "disk" / ADAPTER_DIR / saved_adapter.WEIGHTS).is_file()
    assert not (tmp_path / "disk" / adapter_dir.REHEARSAL).exists()


def test_a_run_that_would_train_nothing_is_refused_by_its_flag() -> None:
    with pytest.raises(InputError, match="--learning-rate 0: .*greater than 0"):
        check_run_flags(["--learning-rate", "0"], world_size=1)
