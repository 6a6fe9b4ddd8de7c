from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from snake_dist.data import tokenization
from snake_dist.data.dataset import TokenizedDataset, open_dataset
from snake_dist.data.packing import IGNORED, Example, pack, pad, shifted_labels
from snake_dist.data.templates import encode_prompt
from snake_dist.data.tokenization import hash_prompt, is_among, tokenize
from snake_dist.errors import InputError
from snake_dist.game.rules import SEED_RANGES
from snake_dist.model.base import load_tokenizer
from tests.support.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def lines(num_games=10, per_game=3, **more):
    return [
        {"prompt": f"head {game}{step}", "completion": f"Move: UP {'x' * step}", "game_id": game, **more}
        for game in range(num_games)
        for step in range(per_game)
    ]


def opened(patterns, tokenizer, cache, bad_lines="stop"):
    return open_dataset(patterns, tokenizer, bad_lines=bad_lines, for_training=True, cache=cache)


def test_an_example_is_prompt_completion_and_end_of_sequence(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", lines())
    dataset = opened((path,), tokenizer, tmp_path / "cache")
    assert len(dataset) == 30
    example = dataset[4]
    prompt = encode_prompt(tokenizer, "head 11")
    assert example.input_ids[: example.num_prompt_tokens].tolist() == prompt
    assert tokenizer.decode(example.input_ids) == "head 11\nMove: UP x<eos>"
    assert example.num_loss_tokens == len("Move: UP x") + 1 == dataset.num_loss_tokens[4]
    assert dataset.lengths[4] == len(example.input_ids)
    assert dataset.place(4) == f"{path}:5"
    assert all(is_among(hash_prompt(line["prompt"]), dataset.prompt_hashes) for line in lines())
    assert not any(is_among(hash_prompt(f"head {number}"), dataset.prompt_hashes) for number in range(200, 300))


def opened_by(tokenizer, opening="<s>", closing=None):
    """The tokenizer, made to write special tokens before every text, and after it, as many do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tokenizer)
    added = [token for token in (opening, closing) if token]
    tokenizer.add_special_tokens({"bos_token": opening})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{opening} $A {closing or ''}".strip(),
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in added],
    )
    return tokenizer


@pytest.mark.parametrize("closing", [None, "<eos>"])
def test_special_tokens_stand_once_whoever_wrote_them(tmp_path, tokenizer, closing):
    tokenizer = opened_by(tokenizer, closing=closing)
    written = [
        ("q", "a"),
        ("<s>q", "a"),
        ("q", "a<eos>"),
        ("<s>q", "a<eos>"),
        ("<s><s>q", "a<eos><eos>"),
        ("<s>q", "a<eos> \n"),
    ]
    others = [("q<s>", "<eos>a"), ("q<eos>", "<s>a")]  # neither at the start nor at the end: the user's own
    lines = [{"prompt": prompt, "completion": completion} for prompt, completion in written + others]
    dataset = opened((write(tmp_path / "a.jsonl", lines),), tokenizer, tmp_path / "cache")
    texts = [tokenizer.decode(dataset[i].input_ids) for i in range(len(dataset))]
    assert texts == ["<s>q\na<eos>"] * 6 + ["<s>q<s>\n<eos>a<eos>", "<s>q<eos>\n<s>a<eos>"]
    assert dataset.meta["own_special_tokens"] == {"<s> at the start": 4, "<eos> at the end": 4}
    for i, (prompt, _) in enumerate(written + others):
        example = dataset[i]
        assert encode_prompt(tokenizer, prompt) == example.input_ids[: example.num_prompt_tokens].tolist()


def test_the_highest_token_is_known_with_its_place(tmp_path, tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<|extra|>"])
    data = lines()
    data[7]["completion"] += "<|extra|>"
    path = write(tmp_path / "a.jsonl", data)
    assert opened((path,), tokenizer, tmp_path / "cache").largest_token == (len(tokenizer) - 1, f"{path}:8")


def test_a_data_set_is_tokenized_once(tmp_path, tokenizer, monkeypatch):
    path = write(tmp_path / "a.jsonl", lines())
    first = opened((path,), tokenizer, tmp_path / "cache")
    monkeypatch.setattr(tokenization, "_write_tokens", None)  # would raise
    assert opened((path,), tokenizer, tmp_path / "cache").fingerprint == first.fingerprint
    write(tmp_path / "a.jsonl", lines(num_games=11))
    with pytest.raises(TypeError):
        opened((path,), tokenizer, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing half-written stays


def test_bad_lines_stop_or_are_counted(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", lines(num_games=2))
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"prompt": "torn\n')
    with pytest.raises(InputError, match=r"a\.jsonl:7: torn or invalid JSON"):
        opened((path,), tokenizer, tmp_path / "cache")
    dataset = opened((path,), tokenizer, tmp_path / "cache", bad_lines="skip")
    assert len(dataset) == 6
    assert dataset.meta["skipped_lines"] == {"torn or invalid JSON": 1}


def test_games_reserved_for_judging_are_not_trained_on(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", lines(seed=SEED_RANGES["test"][0]))
    with pytest.raises(InputError, match="test seed"):
        opened((path,), tokenizer, tmp_path / "cache")
    paths = [tmp_path / "a.jsonl"]
    judged = tokenize(paths, tokenizer, bad_lines="stop", for_training=False, cache=tmp_path / "cache")
    assert len(TokenizedDataset(judged)) == 30


def test_labels_are_the_next_tokens_of_completion_and_eos():
    example = Example(np.array([5, 6, 7, 8]), num_prompt_tokens=2)
    assert shifted_labels(example).tolist() == [IGNORED, 7, 8, IGNORED]
    without_prompt = Example(np.array([5, 6]), num_prompt_tokens=0)
    assert shifted_labels(without_prompt).tolist() == [6, IGNORED]


def test_packed_and_padded_hold_the_same_tokens():
    examples = [Example(np.array([5, 6, 7]), 1), Example(np.array([8, 9]), 1)]
    packed, padded = pack(examples), pad(examples)
    assert packed.input_ids_BT.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.position_ids_BT.tolist() == [[0, 1, 2, 0, 1]]
    assert packed.columns_C.tolist() == [0, 1, 3]
    assert packed.segments.boundaries == (0, 3, 5)
    assert padded.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert padded.attention_mask_BT.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded.columns_C.tolist() == [0, 1]
    assert padded.places_K.tolist() == [0, 1, 0]
    assert padded.num_padding == 1
    for batch in (packed, padded):
        assert batch.labels_K.tolist() == [6, 7, 9]
        assert batch.examples_K.tolist() == [0, 0, 1]
