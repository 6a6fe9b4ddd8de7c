from __future__ import annotations

import pytest

from tests.support.tiny_models import tiny_adapter


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, llama_dir):
    directory = tmp_path_factory.mktemp("adapters")
    return [
        tiny_adapter(directory / name / "lora_adapters/model_artifacts", llama_dir, seed)
        for seed, name in enumerate(("calm", "wild"))
    ]
