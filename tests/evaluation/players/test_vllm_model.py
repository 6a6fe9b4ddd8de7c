"""vLLM itself is not there: a stand-in checks what it is asked, and answers with the model's own decoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from snake_dist.checkpoint.adapter_base import describe_adapter
from snake_dist.evaluation.players import vllm_model
from snake_dist.evaluation.players.entrants import PlayerOptions, find_entrants, mode_entrants
from snake_dist.evaluation.players.language_model import greedy_decode
from snake_dist.evaluation.players.loading import load_model_players
from snake_dist.evaluation.players.vllm_model import VllmPlayer, uses_vllm
from snake_dist.game.rules import new_game
from tests.support.tiny_models import tiny_adapter


class Engine:
    """As much of `vllm.LLM` as is used; its tokens include the stop token, as vLLM's do."""

    def __init__(self, **options):
        self.options, self.asked = options, []

    def generate(self, prompts, sampling, lora_request=None, use_tqdm=True):
        assert (sampling.temperature, use_tqdm) == (0.0, False)
        self.asked.append((len(prompts), lora_request and lora_request.path))
        name = "adapter" if lora_request else "base"
        own = load_model_players(describe_adapter(Path(self.options["tokenizer"])), torch.device("cpu"))[name]
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        with own.model.disable_adapter() if lora_request is None else torch.no_grad():
            decoded = greedy_decode(own.model, own.tokenizer, ids, sampling.max_tokens)
        ended = [row + sampling.stop_token_ids[:1] if len(row) < sampling.max_tokens else row for row in decoded]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(row))]) for row in ended]


@pytest.fixture
def engine_made(monkeypatch):
    made = []
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM = lambda **options: made.append(Engine(**options)) or made[-1]
    vllm.SamplingParams = SimpleNamespace
    vllm.__spec__ = SimpleNamespace()
    request.LoRARequest = lambda name, number, path: SimpleNamespace(name=name, number=number, path=path)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(vllm_model, "has_gpu", lambda: True)
    return made


@pytest.fixture
def adapter(tmp_path, llama_dir):
    return tiny_adapter(tmp_path / "adapter", llama_dir)


STATES = [new_game(5, seed) for seed in range(9)]


def test_vllm_answers_what_the_model_answers(engine_made, adapter):
    entrants, _ = find_entrants(["adapter", str(adapter)], PlayerOptions())
    assert all(entrant.identity.endswith(", vLLM") for entrant in entrants)
    answers = {entrant.name: entrant.load().answers(STATES) for entrant in entrants}
    (engine,) = engine_made
    assert engine.asked == [(9, None), (9, str(adapter))]
    assert engine.options["max_lora_rank"] == 8
    assert engine.options["dtype"] == "float32"
    own = load_model_players(describe_adapter(adapter), torch.device("cpu"))
    assert answers == {name: own[name].answers(STATES) for name in ("base", "adapter")}
    assert answers["base"] != answers["adapter"]


def test_a_prompt_that_does_not_fit_is_not_asked(adapter):
    own = load_model_players(describe_adapter(adapter), torch.device("cpu"))["base"]
    player = VllmPlayer(None, own.tokenizer, "compact", max_new_tokens=6, max_length=10, stops=(0,))
    assert [answer.text for answer in player.answers(STATES)] == [""] * 9


@pytest.mark.usefixtures("engine_made")
def test_it_is_used_only_where_it_can_be(adapter, monkeypatch):
    described = describe_adapter(adapter)
    assert uses_vllm(described)
    path = adapter / "adapter_config.json"
    plain = json.loads(path.read_text())
    for change in ({"use_dora": True}, {"r": 512}, {"init_lora_weights": "pissa"}, {"peft_type": "ADALORA"}):
        path.write_text(json.dumps(plain | change))
        assert not uses_vllm(described), change
    path.write_text(json.dumps(plain))
    with monkeypatch.context() as two_ranks:
        two_ranks.setenv("WORLD_SIZE", "2")
        assert not uses_vllm(described)
    monkeypatch.setattr(vllm_model, "has_gpu", lambda: False)
    assert not uses_vllm(described)


def test_modes_keep_the_model_in_this_process(engine_made, adapter):
    entrants, _ = find_entrants(["adapter", str(adapter)], PlayerOptions())
    more = mode_entrants(entrants, 5, "classic", few_shot=1, constrained=True)
    assert all(entrant.load().answers(STATES[:1])[0].prompt for entrant in more)
    assert engine_made == []
