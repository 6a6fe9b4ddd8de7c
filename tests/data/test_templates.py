"""What stands around a prompt: the templates, against transformers' own rendering, byte for byte."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from snake_dist.data.chat_template import turn_end
from snake_dist.data.forms import BadLine
from snake_dist.data.records import Record
from snake_dist.data.templates import check_template, encode_prompt, encode_records, stop_ids
from snake_dist.errors import InputError
from snake_dist.model.base import load_tokenizer
from tests.support.tiny_models import CHATML, add_chat_template, tiny_tokenizer

BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} "
    "[/INST]{% elif message['role'] == 'assistant' %} {{ message['content'] | trim }} {{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
TWO_ENDS = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
THINKING = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}",
).replace("{{ message['content'] }}<|im_end|>{% endgen", "<think></think>{{ message['content'] }}<|im_end|>{% endgen")
PARTING = CHATML.replace("{% if add_generation_prompt %}<|im_start|>a", "{% if add_generation_prompt %}<|im_start|>A")
CHATML_START = "<|im_start|>user\nhead 11<|im_end|>\n<|im_start|>assistant\n"
ENDLESS = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def tokenizer_with(tmp_path):
    def load(template, bos=None):
        add_chat_template(tiny_tokenizer(tmp_path / "t"), template, bos)
        return load_tokenizer(str(tmp_path / "t"))

    return load


def record(*turns, system=""):
    (prompt, completion), *later = turns
    return Record(prompt, completion, None, None, "a.jsonl", 1, system=system, later=tuple(later))


def messages_of(record):
    messages = [{"role": "system", "content": record.system}] if record.system else []
    for prompt, completion in record.turns:
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return messages


def encoded(tokenizer, given, template, found=None):
    (tokens,) = encode_records(tokenizer, [given], template, Counter() if found is None else found)
    if isinstance(tokens, BadLine):
        raise tokens
    return tokens


ONE = record(("head 11", "Move: UP"))
THREE = record(("a", "b\n"), ("c", "d"), ("é", "f"), system="be brief")


@pytest.mark.parametrize("given", [ONE, THREE], ids=["one turn", "three turns"])
def test_chat_trains_what_the_assistant_says_in_transformers_own_rendering(tokenizer_with, given):
    tokenizer = tokenizer_with(CHATML)
    tokens = encoded(tokenizer, given, "chat")
    own = tokenizer.apply_chat_template(messages_of(given), return_dict=True, return_assistant_tokens_mask=True)
    # Only the line break after the last turn is left out: nothing is learned from it.
    assert tokens.ids == own["input_ids"][:-1]
    trained = [any(start <= i < stop for start, stop in tokens.trained) for i in range(len(tokens.ids))]
    assert trained == [bool(mask) for mask in own["assistant_masks"][:-1]]
    assert [tokenizer.decode(tokens.ids[start:stop]) for start, stop in tokens.trained] == [
        f"{completion}<|im_end|>" for _, completion in given.turns
    ]


@pytest.mark.parametrize(
    ("template", "bos", "whole", "trained"),
    [
        (BRACKETS, "<s>", "<s>[INST] head 11 [/INST] Move: UP <eos>", " Move: UP <eos>"),
        (TWO_ENDS, None, f"{CHATML_START}Move: UP<|im_end|>", None),
        (THINKING, None, f"{CHATML_START}<think></think>Move: UP<|im_end|>", None),
    ],
    ids=["brackets", "two ends", "thinking"],
)
def test_a_player_gets_the_prompt_and_stops_at_the_token_of_training(tokenizer_with, template, bos, whole, trained):
    tokenizer = tokenizer_with(template, bos)
    tokens = encoded(tokenizer, ONE, "chat")
    ((start, stop),) = tokens.trained
    assert tokenizer.decode(tokens.ids) == whole
    assert tokenizer.decode(tokens.ids[start:]) == (trained or "Move: UP<|im_end|>")
    assert tokens.ids[:start] == encode_prompt(tokenizer, "head 11", "chat")
    assert tokens.ids[stop - 1] == turn_end(tokenizer)
    assert stop_ids(None, tokenizer, "chat") == sorted({tokens.ids[-1], tokenizer.eos_token_id})


def test_the_chat_template_says_special_tokens_once(tokenizer_with):
    tokenizer, found = tokenizer_with(BRACKETS, "<s>"), Counter()
    tokens = encoded(tokenizer, record(("<s><s>q", "a</s><eos> <eos>\n"), ("<s>q", "a")), "chat", found)
    assert tokenizer.decode(tokens.ids) == "<s>[INST] q [/INST] a</s> <eos>[INST] q [/INST] a <eos>"
    assert found == {"<s> at the start": 2, "<eos> at the end": 1}
    assert encode_prompt(tokenizer, "<s>q", "chat") == encode_prompt(tokenizer, "q", "chat")


def test_where_prompt_and_full_text_part_is_said(tokenizer_with):
    with pytest.raises(BadLine) as parted:
        encoded(tokenizer_with(PARTING), ONE, "chat")
    assert "is not the beginning of its full text" in parted.value.reason
    where = "<|im_end|>\n<|im_start|>': 'A' in the prompt, 'a' in the full text".replace("\n", "\\n")
    assert parted.value.detail.endswith(where)
    with pytest.raises(BadLine) as refused:
        encoded(tokenizer_with(BRACKETS, "<s>"), THREE, "chat")
    assert refused.value.reason + refused.value.detail == "refused by the chat template: only user and assistant"


def test_a_template_that_cannot_train_is_refused_with_another(tmp_path, tokenizer_with):
    for template, why in (
        (ENDLESS, "ends the assistant's turn with no special token"),
        ("{{ raise_exception('no') }}", r"fails \(no\)"),
        ("{{ nothing.at.all }}", "fails"),
        ("silence", "no special token"),
    ):
        with pytest.raises(InputError, match=rf"--template chat: .*{why}.*choose --template plain or instruction"):
            check_template(tokenizer_with(template), "chat")
    plain = load_tokenizer(str(tiny_tokenizer(tmp_path / "none")))
    with pytest.raises(InputError, match="no chat template"):
        check_template(plain, "chat")
    check_template(plain, "plain")


def test_the_text_of_plain_and_instruction(tokenizer_with):
    tokenizer = tokenizer_with(CHATML)
    shown = {
        ("plain", ONE): ["head 11\n", "Move: UP<eos>"],
        ("plain", THREE): ["be brief\na\n", "b\n<eos>", "c\n", "d<eos>", "é\n", "f<eos>"],
        ("instruction", ONE): ["### Instruction:\nhead 11\n\n### Response:\n", "Move: UP<eos>"],
        ("instruction", THREE): [
            "be brief\n\n### Instruction:\na\n\n### Response:\n",
            "b\n<eos>",
            "### Instruction:\nc\n\n### Response:\n",
            "d<eos>",
            "### Instruction:\né\n\n### Response:\n",
            "f<eos>",
        ],
    }
    for (template, given), parts in shown.items():
        tokens = encoded(tokenizer, given, template)
        edges = [0, *(edge for span in tokens.trained for edge in span)]
        texts = [tokenizer.decode(tokens.ids[a:b]) for a, b in itertools.pairwise(edges)]
        assert texts == parts
        if given is ONE:
            assert encode_prompt(tokenizer, "head 11", template) == tokens.ids[: tokens.trained[0][0]]
            assert stop_ids(None, tokenizer, template) == [tokenizer.eos_token_id]
