from __future__ import annotations

import warnings

import pytest

from snake_dist.data.tokenization import encode_prompt
from snake_dist.evaluation.episodes import play_games
from snake_dist.evaluation.player import HeuristicPlayer, ModelPlayer
from snake_dist.game.rules import new_game, step
from snake_dist.game.text import parse_reply, render_prompt
from snake_dist.heuristics.policies import POLICIES
from snake_dist.model.base import load_base, load_tokenizer
from tests.tiny_models import tiny_llama, tiny_tokenizer

MAX_NEW_TOKENS = 24


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
    while len(found) < 13:
        if state.steps % 40 == 0:
            found.append(state)
        state = step(state, POLICIES["bfs-safe"](state))
    return found[::-1]


def player(model, tokenizer, batch_size=5, **options):
    return ModelPlayer(model, tokenizer, "compact", MAX_NEW_TOKENS, batch_size, **options)


def slow_replies(model, tokenizer, states):
    """Greedy decoding by its definition: one row, no padding, no cache, the whole text for each token."""
    import torch

    texts = []
    for state in states:
        ids = encode_prompt(tokenizer, render_prompt(state, "compact"))
        new: list[int] = []
        while len(new) < MAX_NEW_TOKENS:
            with torch.no_grad():
                logits = model(torch.tensor([ids + new]), use_cache=False).logits[0, -1]
            if (token := int(logits.argmax())) == tokenizer.eos_token_id:
                break
            new.append(token)
        texts.append(tokenizer.decode(new))
    return texts


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


def test_replies_are_greedy_decoding_whatever_the_batch(model, tokenizer, states):
    lengths = {len(render_prompt(state, "compact")) for state in states}
    assert len(lengths) > 8
    expected = slow_replies(model, tokenizer, states)
    assert len(set(expected)) == len(expected)  # the states tell in the replies
    assert min(map(len, expected)) < MAX_NEW_TOKENS // 2  # some rows end long before others
    for batch_size in (1, 5, 13):
        assert player(model, tokenizer, batch_size).replies(states) == expected
    assert player(model, tokenizer).replies(states[::-1]) == expected[::-1]


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
    assert player(model, tokenizer).replies(states) == slow_replies(model, tokenizer, states)


def test_own_generation_config_is_neither_used_nor_changed(model, tokenizer, states):
    from transformers import GenerationConfig

    expected = player(model, tokenizer).replies(states)
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert player(model, tokenizer).replies(states) == expected
        assert player(make_peft(model), tokenizer, adapter=False).replies(states) == expected
    assert model.generation_config is own


def test_stop_tokens_of_the_model_count_too(model, tokenizer, states):
    expected = player(model, tokenizer).replies(states)
    stop = tokenizer.encode(expected[0])[3]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, stop]
    cut = player(model, tokenizer).replies(states)
    assert cut[0] == tokenizer.decode(tokenizer.encode(expected[0])[:3])
    assert all(before.startswith(after) for before, after in zip(expected, cut, strict=True))


def test_decoding_ends_with_the_last_row(model, tokenizer, states):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    ended = [
        s for s, t in zip(states, slow_lengths(model, tokenizer, states), strict=True) if t < MAX_NEW_TOKENS
    ]
    assert len(ended) >= 2
    longest = max(slow_lengths(model, tokenizer, ended))
    calls.clear()
    player(model, tokenizer, batch_size=len(ended)).replies(ended)
    assert len(calls) == longest + 1  # one more for the stop token


def slow_lengths(model, tokenizer, states):
    return [len(tokenizer.encode(text)) for text in slow_replies(model, tokenizer, states)]


def test_tokenizer_without_pad_is_left_as_it_is(model, tokenizer, states):
    assert tokenizer.pad_token_id is None
    player(model, tokenizer).replies(states)
    assert tokenizer.pad_token_id is None


def test_prompt_that_does_not_fit_gets_an_empty_reply(tmp_path, states):
    prompts = sorted(len(render_prompt(state, "compact")) + 1 for state in states)  # one byte, one token
    limit = prompts[6] + MAX_NEW_TOKENS
    small = str(tiny_llama(tmp_path, max_position_embeddings=limit))
    model, tokenizer = load_base(small, "float32"), load_tokenizer(small)
    replies = player(model, tokenizer).replies(states)
    empty = [state for state, reply in zip(states, replies, strict=True) if reply == ""]
    too_long = [s for s in states if len(render_prompt(s, "compact")) + 1 + MAX_NEW_TOKENS > limit]
    assert empty == too_long != []
    assert parse_reply("") is None


def test_adapter_off_is_the_base(model, tokenizer, states):
    base = player(model, tokenizer).replies(states)
    peft = make_peft(model)
    adapted = player(peft, tokenizer).replies(states)
    assert adapted != base
    assert player(peft, tokenizer, adapter=False).replies(states) == base
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
        replies = HeuristicPlayer(policy).replies(states)
        assert [parse_reply(reply) for reply in replies] == [policy(state) for state in states], name


def test_a_model_that_babbles_loses_every_game_at_once(model, tokenizer):
    model_player = player(model, tokenizer)
    episodes = play_games(model_player, 8, "classic", range(9), max_steps=5, batch_size=4)
    assert {(episode.end, episode.num_replies) for episode in episodes} == {("invalid_reply", 1)}
    assert model_player.replies([]) == []
