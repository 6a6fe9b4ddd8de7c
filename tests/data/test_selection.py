from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from snake_dist.data import batching, selection
from snake_dist.data.batching import ExampleStream
from snake_dist.data.dataset import TokenizedDataset, open_dataset
from snake_dist.data.selection import Split, draw, game_hash, held_out_games, select
from snake_dist.data.tokenization import INDEX_DTYPE, is_among
from snake_dist.errors import InputError
from snake_dist.model.base import load_tokenizer
from tests.support.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture
def dataset(tmp_path, tokenizer, monkeypatch):
    """10 games of 3 lines, each longer than the one before it, chosen from 7 lines at a time."""
    monkeypatch.setattr(selection, "_BLOCK_ROWS", 7)
    path = tmp_path / "a.jsonl"
    lines = [
        {"prompt": f"head {game}{step}", "completion": f"Move: UP {'x' * step}", "game_id": game}
        for game in range(10)
        for step in range(3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_dataset((str(path),), tokenizer, bad_lines="stop", for_training=True, cache=tmp_path / "cache")


def test_a_split_is_by_game_and_counted(dataset):
    train, held_out = select(dataset, 1024, "stop", Split(0.25, seed=0))
    assert sorted([*train.ids, *held_out.ids]) == list(range(30))
    assert len(held_out.ids) == 9  # 3 of 10 games
    assert {i // 3 for i in train.ids}.isdisjoint({i // 3 for i in held_out.ids})
    for part in (train, held_out):
        examples = [dataset[i] for i in part.ids]
        assert part.num_tokens == sum(len(example.input_ids) for example in examples)
        assert part.num_loss_tokens == sum(example.num_loss_tokens for example in examples)
        assert part.longest_completion == max(example.num_loss_tokens for example in examples)
        assert part.digest == f"{len(part.ids)} of sha256 {hashlib.sha256(part.ids.tobytes()).hexdigest()[:8]}"
    other = select(dataset, 1024, "stop", Split(0.25, seed=1))[1]
    assert other.digest != held_out.digest
    (everything,) = select(dataset, 1024, "stop")
    assert everything.ids.tolist() == list(range(30))


def test_a_larger_draw_holds_a_smaller_one(dataset):
    train, _ = select(dataset, 1024, "stop", Split(0.25, seed=0))
    ten, twelve, other = draw(dataset, train, 10, 0), draw(dataset, train, 12, 0), draw(dataset, train, 10, 1)
    assert (len(set(ten.ids)), len(set(twelve.ids))) == (10, 12)
    assert set(ten.ids) < set(twelve.ids) < set(train.ids)
    assert set(other.ids) != set(ten.ids)
    assert ten.num_tokens == sum(len(dataset[i].input_ids) for i in ten.ids)
    assert ten.num_loss_tokens == sum(dataset[i].num_loss_tokens for i in ten.ids)
    assert len({part.digest for part in (train, ten, twelve, other)}) == 4
    assert draw(dataset, train, 21, 0).digest == train.digest
    for wrong in (0, 22):
        with pytest.raises(InputError, match=f"--max-examples {wrong}: 1 to 21"):
            draw(dataset, train, wrong, 0)


def test_a_choice_is_made_once(dataset, monkeypatch):
    first = select(dataset, 1024, "stop", Split(0.25, seed=0))
    monkeypatch.setattr(selection, "_write", lambda *_: 1 / 0)
    again = select(dataset, 1024, "stop", Split(0.25, seed=0))
    assert [part.digest for part in again] == [part.digest for part in first]
    with pytest.raises(ZeroDivisionError):
        select(dataset, 1023, "stop", Split(0.25, seed=0))


def test_over_long_examples_stop_or_are_left_out(dataset):
    limit = int(dataset.lengths[1])
    with pytest.raises(InputError, match=rf"a\.jsonl:3: {limit + 1} tokens.*--sequence-length {limit} \(10 of 30"):
        select(dataset, limit, "stop")
    (kept,) = select(dataset, limit, "skip")
    assert kept.ids.tolist() == [i for i in range(30) if i % 3 < 2]
    with pytest.raises(InputError, match="no example"):
        select(dataset, 3, "skip")
    assert not list(dataset.directory.glob(".*"))  # nothing half-written stays


def fabricated(directory, num_lines):
    """A tokenized data set of games of 40 lines of 10 tokens, 5 of them trained, that nobody tokenized."""
    directory.mkdir()
    np.zeros(10 * num_lines, dtype=np.uint32).tofile(directory / "tokens.bin")
    index = np.zeros(num_lines, dtype=INDEX_DTYPE)
    index["end"] = 10 * np.arange(1, num_lines + 1)
    index["num_tokens"], index["num_prompt_tokens"], index["num_loss_tokens"] = 10, 5, 5
    index["game"] = np.arange(num_lines) // 40
    index.tofile(directory / "index.bin")
    np.arange(0, 2 * num_lines, 2, dtype=np.uint64).tofile(directory / "prompt_hashes.bin")
    (directory / "games.json").write_text(json.dumps([f"a#{game}" for game in range(num_lines // 40)]))
    (directory / "meta.json").write_text(json.dumps({"num_examples": num_lines, "files": ["a"]}))
    return directory


def start_memory(directory):
    """(bytes allocated at most by a first start, by a later one)."""

    def start():
        dataset = TokenizedDataset(directory)
        train, held_out = select(dataset, 1024, "stop", Split(0.05, seed=0))
        stream = ExampleStream(train.ids, 0, 8, 10 * len(train.ids))
        for step in range(3):
            ids = stream.step_examples(step)
            assert dataset.lengths[ids].sum() == 80
            assert [len(dataset[i].input_ids) for i in ids] == [10] * 8
        assert is_among(4, dataset.prompt_hashes)
        assert not is_among(5, dataset.prompt_hashes)
        assert not set(ids) & set(held_out.ids[:100])

    peaks = []
    for _ in range(2):
        tracemalloc.start()
        start()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks


def test_memory_of_a_start_does_not_grow_with_the_number_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(batching, "LONGEST_TABLE", 1000)
    small = start_memory(fabricated(tmp_path / "small", 40_000))
    large = start_memory(fabricated(tmp_path / "large", 1_200_000))
    # The first start reads the keys of the games: about 330 bytes for each; a later one nothing.
    assert large[0] - small[0] < 500 * (1_200_000 - 40_000) / 40
    assert large[1] - small[1] < 100_000
    assert large[1] < 1_000_000


@pytest.mark.parametrize(
    ("games", "fraction", "expected"),
    [(2, 0.01, 1), (2, 0.99, 1), (10, 0.05, 1), (30, 0.1, 3), (31, 0.1, 4), (1000, 0.05, 50), (3, 0.9, 2)],
)
def test_the_share_is_exact_and_neither_side_empty(games: int, fraction: float, expected: int) -> None:
    assert len(held_out_games((str(game) for game in range(games)), fraction, 0)) == expected


def test_what_is_held_out_depends_on_keys_fraction_and_seed_only() -> None:
    games = [f"a.jsonl#{game}" for game in range(200)]
    held_out = held_out_games(games, 0.1, 3)
    assert held_out == held_out_games([*reversed(games), *games], 0.1, 3)
    assert held_out < held_out_games(games, 0.2, 3)
    assert held_out != held_out_games(games, 0.1, 4)
    # With other games beside them, those held out before stay out but for the edge.
    more = held_out_games([*games, "b.jsonl#1"], 0.1, 3)
    assert len(held_out - more) <= 1
    code = "from snake_dist.data.selection import game_hash; print(game_hash('a.jsonl#7', 3))"
    other = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True)
    assert int(other.stdout) == game_hash("a.jsonl#7", 3)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        held_out_games(["a", "b"], fraction, 0)


def test_one_game_cannot_be_split() -> None:
    with pytest.raises(InputError, match="has 1, at least 2"):
        held_out_games(["a", "a"], 0.5, 0)
