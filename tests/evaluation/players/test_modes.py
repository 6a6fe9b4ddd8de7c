"""Few-shot and constrained decoding, on a tiny random model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snake_dist.data.templates import encode_prompt
from snake_dist.evaluation.players.language_model import EXAMPLE_END, LanguageModelPlayer
from snake_dist.evaluation.players.modes import ConstrainedPlayer, with_examples
from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.model.base import load_base, load_tokenizer
from snake_dist.styles.catalog import render_prompt
from snake_dist.styles.replies import parse_reply

CHOICES = ("Move: UP", "Move: DOWN", "Move: LEFT", "Move: RIGHT")


@pytest.fixture(scope="module")
def player(llama_dir):
    directory = str(llama_dir)
    return LanguageModelPlayer(load_base(directory, "float32"), load_tokenizer(directory), "compact", 24, 8)


@pytest.fixture(scope="module")
def states():
    found = [new_game(6, 3)]
    while len(found) < 12:
        found.append(step(found[-1], POLICIES["bfs"](found[-1])))
    return found


def test_a_constrained_reply_is_greedy_under_the_grammar(player, states):
    import torch

    replies = ConstrainedPlayer(player).replies(states)
    assert len(set(replies)) > 1
    assert ConstrainedPlayer(player).replies(states[5:6]) == replies[5:6]
    for state, reply in zip(states, replies, strict=True):
        ids = encode_prompt(player.tokenizer, render_prompt(state, "compact"))
        begun = player.tokenizer("Move: ", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            scores = player.model(torch.tensor([ids + begun]), use_cache=False).logits[0, -1]
        letters = {choice: scores[player.tokenizer.convert_tokens_to_ids(choice[6])].item() for choice in CHOICES}
        assert letters[reply] == pytest.approx(max(letters.values()), abs=1e-4)
        assert parse_reply(reply) is not None


def test_examples_stand_before_the_prompt_and_end_the_reply(player, states):
    asked = with_examples(player, 3, 6, "classic")
    (answer,) = asked.answers(states[:1])
    *examples, prompt = answer.prompt.split(f"{EXAMPLE_END}\n")
    assert len({*examples}) == 3
    assert prompt == render_prompt(states[0], "compact")
    for example in examples:
        shown, completion = example.split("\n")
        assert shown.startswith("grid 6 head")
        assert parse_reply(completion) is not None
    assert EXAMPLE_END not in answer.text
    assert player.answers(states[:1])[0].prompt == prompt


def test_examples_are_the_teachers_of_the_style(player):
    shown = with_examples(replace(player, style="cycle"), 2, 6, "classic").examples
    assert shown.count("\nat ") == shown.count(EXAMPLE_END) == 2
