from __future__ import annotations

import pytest

from snake_dist.data.templates import encode_prompt
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.players.language_model import LanguageModelPlayer
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import POLICIES, plays_on
from snake_dist.model.base import load_base, load_tokenizer
from snake_dist.model.decoding import SlotDecoder
from snake_dist.styles.catalog import render_prompt
from snake_dist.styles.replies import parse_reply
from tests.support.tiny_models import tiny_llama, tiny_tokenizer

MAX_NEW_TOKENS = 16


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_tokenizer(directory)


@pytest.fixture
def model(directory):
    return load_base(directory, "float32")


@pytest.fixture(scope="module")
def states():
    """Running states with snakes, and so prompts, of many lengths."""
    found, state = [], new_game(10, seed=3)
    while len(found) < 8:
        if state.steps % 20 == 0:
            found.append(state)
        state = step(state, POLICIES["bfs-safe"](state))
    return found[::-1]


def player(model, tokenizer, batch_size=5, **options):
    return LanguageModelPlayer(model, tokenizer, "compact", MAX_NEW_TOKENS, batch_size, **options)


def by_definition(model, tokenizer, states):
    """Greedy decoding, ids without the stop token: one row, no padding, no cache, all text for each token."""
    import torch

    decoded = []
    for state in states:
        ids = encode_prompt(tokenizer, render_prompt(state, "compact"))
        new: list[int] = []
        while len(new) < MAX_NEW_TOKENS:
            with torch.no_grad():
                logits = model(torch.tensor([ids + new]), use_cache=False).logits[0, -1]
            if (token := int(logits.argmax())) == tokenizer.eos_token_id:
                break
            new.append(token)
        decoded.append(new)
    return decoded


def make_peft(model, dropout=0.0):
    """`model` with a LoRA adapter that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout, task_type="CAUSAL_LM")
    peft = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=generator)
    return peft


@pytest.fixture(scope="module")
def expected_ids(directory, tokenizer, states):
    return by_definition(load_base(directory, "float32"), tokenizer, states)


@pytest.fixture(scope="module")
def expected(expected_ids, tokenizer):
    return [tokenizer.decode(ids) for ids in expected_ids]


def test_replies_are_greedy_decoding_whatever_the_batch(model, tokenizer, states, expected_ids, expected):
    assert len({len(render_prompt(state, "compact")) for state in states}) == len(states)
    assert len(set(expected)) == len(states)  # the states tell in the replies
    assert min(map(len, expected_ids)) < max(map(len, expected_ids))
    for batch_size in (1, 3, 8):
        assert player(model, tokenizer, batch_size).replies(states) == expected
    assert player(model, tokenizer).replies(states[::-1]) == expected[::-1]


def test_a_prompt_that_comes_again_is_not_decoded_again(model, tokenizer, states, expected, monkeypatch):
    decoded = []
    add = SlotDecoder.add
    monkeypatch.setattr(SlotDecoder, "add", lambda self, name, *args: (decoded.append(name), add(self, name, *args)))
    with player(model, tokenizer).conversation() as asked:
        for first in (0, len(states)):
            for i, state in enumerate(states):
                asked.ask(first + i, state)
            answers = {}
            while len(answers) < len(states):
                answers.update(asked.answered())
            assert [answers[first + i].text for i in range(len(states))] == expected
    assert sorted(decoded) == list(range(len(states)))


def test_absolute_positions_are_padded_right_too(tmp_path, states):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer(str(tiny_tokenizer(tmp_path)))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        eos_token_id=256,
        bos_token_id=256,
    )
    model = GPT2LMHeadModel(config).eval()
    expected = [tokenizer.decode(ids) for ids in by_definition(model, tokenizer, states)]
    assert player(model, tokenizer).replies(states) == expected


def test_own_generation_config_is_neither_used_nor_changed(model, tokenizer, states, expected, capfd):
    from transformers import GenerationConfig

    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        top_p=0.5,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        min_new_tokens=20,
        max_new_tokens=2,
    )
    model.generation_config = own
    assert player(model, tokenizer).replies(states) == expected
    assert "temperature" not in capfd.readouterr().err
    assert player(make_peft(model), tokenizer, adapter=False).replies(states) == expected
    assert model.generation_config is own


def test_stop_tokens_of_the_model_count_too(model, tokenizer, states, expected_ids):
    row = max(range(len(states)), key=lambda i: len(expected_ids[i]))
    stop = expected_ids[row][2]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, stop]
    cut = [ids[: ids.index(stop)] if stop in ids else ids for ids in expected_ids]
    assert player(model, tokenizer).replies(states) == [tokenizer.decode(ids) for ids in cut]
    assert len(cut[row]) <= 2


def test_decoding_ends_with_the_last_row(model, tokenizer, states, expected_ids):
    stops = {ids[2 + i] for i, ids in enumerate(expected_ids)}  # rows end early, and at different times
    lengths = [next(n for n, token in enumerate(ids) if token in stops) for ids in expected_ids]
    assert min(lengths) < max(lengths) < MAX_NEW_TOKENS - 1
    model.generation_config.eos_token_id = sorted(stops)
    calls = []
    player(model, tokenizer).replies(states[:1])  # what is found out about a model once
    model.register_forward_hook(lambda *_: calls.append(1))
    player(model, tokenizer, batch_size=len(states)).replies(states)
    assert len(calls) == max(lengths) + 1  # one more for the stop token


def test_tokenizer_without_pad_is_left_as_it_is(model, tokenizer, states):
    assert tokenizer.pad_token_id is None
    player(model, tokenizer).replies(states)
    assert tokenizer.pad_token_id is None


def test_prompt_that_does_not_fit_gets_an_empty_reply(tmp_path, states):
    prompts = sorted(len(render_prompt(state, "compact")) + 1 for state in states)  # one byte, one token
    limit = prompts[4] + MAX_NEW_TOKENS
    small = str(tiny_llama(tmp_path, max_position_embeddings=limit))
    model, tokenizer = load_base(small, "float32"), load_tokenizer(small)
    replies = player(model, tokenizer).replies(states)
    empty = [state for state, reply in zip(states, replies, strict=True) if reply == ""]
    too_long = [s for s in states if len(render_prompt(s, "compact")) + 1 + MAX_NEW_TOKENS > limit]
    assert empty == too_long != []
    assert parse_reply("") is None


def test_adapter_off_is_the_base(model, tokenizer, states, expected):
    peft = make_peft(model)
    adapted = player(peft, tokenizer).replies(states)
    assert adapted != expected
    assert player(peft, tokenizer, adapter=False).replies(states) == expected
    assert player(peft, tokenizer).replies(states) == adapted  # and it is on again


def test_adapter_that_changed_the_base_cannot_be_switched_off(model, tokenizer, states):
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="pissa"):
        player(peft, tokenizer, adapter=False).replies(states)


def test_dropout_is_off_while_answering_and_on_again_after(model, tokenizer, states):
    peft = make_peft(model, dropout=0.5)
    expected = player(peft.eval(), tokenizer).replies(states)
    peft.train()
    assert player(peft, tokenizer).replies(states) == expected
    assert peft.training
    assert all(module.training for module in peft.modules())


def test_heuristic_replies_go_through_the_strict_parser(states):
    for name, policy in POLICIES.items():
        if not plays_on(name, states[0].grid_size, states[0].mode):
            continue
        replies = HeuristicPlayer(policy).replies(states)
        assert [parse_reply(reply) for reply in replies] == [policy(state) for state in states], name


def test_a_model_that_babbles_loses_every_game_at_once(model, tokenizer):
    model_player = player(model, tokenizer)
    episodes = play_games(model_player, Games(8, "classic", range(9), max_steps=5), batch_size=4)
    assert {(episode.end, episode.num_replies) for episode in episodes} == {("invalid_reply", 1)}
    assert model_player.replies([]) == []
