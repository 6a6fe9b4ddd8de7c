"""The data of a run: what becomes of every line, which board it shows, in which style the run was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snake_dist.cluster.world import World
from snake_dist.data.dataset import open_dataset
from snake_dist.errors import InputError
from snake_dist.model.base import load_tokenizer
from snake_dist.run import data as run_data
from snake_dist.run.board import Board, find_board, name_style
from snake_dist.run.config import parse_run_config
from snake_dist.run.data import RunData, default_generation, prepare_data
from snake_dist.run.summary import data_notices, render_data
from snake_dist.styles.catalog import STYLES, teacher_on
from tests.support.runs import tiny_data
from tests.support.tiny_models import tiny_tokenizer

COMPACT = Board(5, "classic", "compact")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(str(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunData]:
    """The data of a run of one rank with these flags."""
    monkeypatch.setattr(run_data, "dataset_cache", lambda: tmp_path / "cache")

    def prepare(*flags: Any) -> RunData:
        config = parse_run_config([str(flag) for flag in flags])
        return prepare_data(config, World(0, 0, 1, 1), find_board(config), tokenizer, max_positions=None)

    return prepare


def generated(directory: Path, style: str) -> list[dict[str, Any]]:
    tiny_data(directory / style, style=style, policy=teacher_on(style, 5, "classic"), max_steps_per_game=6)
    (path,) = (directory / style).glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def found_board(path: Path, lines: list[dict[str, Any]], tokenizer: Any, *flags: str) -> Board:
    """The board of a run on these lines, as its record says it."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = parse_run_config(["--data", str(path), *flags])
    cache = path.with_suffix("")
    dataset = open_dataset(config.data.data, tokenizer, bad_lines="stop", for_training=True, cache=cache)
    return name_style(find_board(config), config, dataset)


@pytest.mark.parametrize("style", STYLES)
def test_a_run_knows_the_style_of_generated_lines(tmp_path: Path, tokenizer: Any, style: str) -> None:
    lines = generated(tmp_path, style)
    assert {line["style"] for line in lines} == {style}
    assert found_board(tmp_path / "x.jsonl", lines, tokenizer) == Board(5, "classic", style)


def test_the_style_is_that_of_the_prompt_where_lines_do_not_agree_on_one(tmp_path: Path, tokenizer: Any) -> None:
    move, facts = generated(tmp_path, "move"), generated(tmp_path, "facts")
    unnamed = [{key: value for key, value in line.items() if key != "style"} for line in move]
    cases = {
        "two": move + facts,
        "some": move + unnamed[:1],
        "none": unnamed,
        "unknown": [line | {"style": "haiku"} for line in move],
        "no name": [line | {"style": ["move"]} for line in move],
        "another prompt": [line | {"style": "short"} for line in move],
    }
    for name, lines in cases.items():
        assert found_board(tmp_path / f"{name}.jsonl", lines, tokenizer) == COMPACT, name
    assert found_board(tmp_path / "flag.jsonl", move, tokenizer, "--style", "compact") == COMPACT


def test_data_tokenized_before_lines_named_their_style_is_still_used(tmp_path: Path, tokenizer: Any) -> None:
    lines, path = generated(tmp_path, "move"), tmp_path / "x.jsonl"
    assert found_board(path, lines, tokenizer).style == "move"
    (meta,) = (tmp_path / "x").glob("*/meta.json")
    old = {key: value for key, value in json.loads(meta.read_text()).items() if key != "styles"}
    meta.write_text(json.dumps(old))
    config = parse_run_config(["--data", str(path)])
    dataset = open_dataset(config.data.data, tokenizer, bad_lines="stop", for_training=True, cache=tmp_path / "x")
    assert name_style(find_board(config), config, dataset) == COMPACT


@pytest.mark.parametrize("style", STYLES)
def test_default_data_of_any_style_can_be_generated(style: str) -> None:
    from snake_dist.data.generation_config import check_generation

    config = default_generation(Board(4, "classic", style), seed=0)  # where every teacher plays
    check_generation(config)
    assert (config.policy, config.style) == (STYLES[style].teacher, style)


def plain_lines(start: int, end: int, **more: Any) -> str:
    lines = (
        {"prompt": f"q {i}", "completion": f"a {'x' * (i % 5)}", "game_id": i // 2, **more} for i in range(start, end)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_every_line_of_every_file_is_accounted_for(tmp_path: Path, prepared: Callable[..., RunData]) -> None:
    for name in ("data/1", "data/2", "disk-2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/1/a.jsonl").write_text(plain_lines(0, 40) + '\n{"prompt": "to')
    (tmp_path / "data/2/empty.jsonl").write_text("")
    (tmp_path / "disk-2/b.jsonl").write_text(plain_lines(0, 20) + "[]\nnull\n")
    (tmp_path / "data/3").symlink_to(tmp_path / "disk-2")
    (tmp_path / "data/notes.txt").write_text("not data")
    (tmp_path / "own.jsonl").write_text(plain_lines(100, 130) + "torn")
    flags = ["--bad-lines", "skip", "--sequence-length", 11, "--max-examples", 31, "--eval-examples", 4]
    reasons = {"torn or invalid JSON": 1, "not a JSON object": 2, "longer than --sequence-length": 8}
    for more in ((), ("--eval-data", tmp_path / "own.jsonl")):
        described = prepared("--data", tmp_path / "data", "--held-out-share", 0.2, *flags, *more).described()
        skipped = described["skipped_lines"]
        if more:
            reasons |= {"torn or invalid JSON": 2, "longer than --sequence-length": 20}
        assert described["num_lines"] == (94 if more else 63)
        assert described["num_lines"] == described["train_examples"] + described["eval_examples"] + sum(
            skipped.values()
        )
        assert (described["train_examples"], described["eval_examples"]) == (31, 4)
        assert {reason: skipped[reason] for reason in reasons} == reasons
        assert len(described["files"]) == (4 if more else 3)
        assert described["passed_over"] == [str(tmp_path / "data/notes.txt")]
        assert render_data(described).endswith("; passed over beside them: 1 file (notes.txt)")
    everything = prepared("--data", tmp_path / "own.jsonl", "--bad-lines", "skip").described()
    assert render_data(everything) == (
        "1 file, 31 lines: 28 to train on, 2 held out, 1 skipped (1 torn or invalid JSON)"
    )


def test_a_token_without_an_embedding_is_named(
    tmp_path: Path, prepared: Callable[..., RunData], tokenizer: Any
) -> None:
    (tmp_path / "a.jsonl").write_text(plain_lines(0, 20))
    (tmp_path / "b.jsonl").write_text(plain_lines(0, 20).replace("q 3", "q <eos> 3"))
    size = len(tokenizer)
    fits = prepared("--data", tmp_path / "a.jsonl", "--eval-data", tmp_path / "b.jsonl")
    fits.check_vocabulary(tokenizer, size)
    fits.check_vocabulary(tokenizer, None)
    with pytest.raises(
        InputError, match=rf"a\.jsonl:1: token {size - 1}, '<eos>': the model has {size - 1} embeddings"
    ):
        fits.check_vocabulary(tokenizer, size - 1)


def test_a_notice_counts_lines_with_special_tokens_of_their_own(
    tmp_path: Path, prepared: Callable[..., RunData]
) -> None:
    (tmp_path / "a.jsonl").write_text(plain_lines(0, 20).replace('x"', 'x<eos>"'))
    described = prepared("--data", tmp_path / "a.jsonl").described()
    assert data_notices(described) == [
        "16 lines bear <eos> at the end, where training writes it too: it stands there once"
    ]
