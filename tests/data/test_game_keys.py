from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from snake_dist.data.game_keys import UNKNOWN_BLOCK_LINES, common_root, game_hash, game_keys, held_out_games
from snake_dist.data.records import Record
from snake_dist.errors import InputError
from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import PROMPT_STYLES, render_prompt


def records(prompts: list[str], games: list[str | int | None], file: str = "a.jsonl") -> list[Record]:
    pairs = zip(prompts, games, strict=True)
    return [Record(prompt, "UP", game, None, file, line) for line, (prompt, game) in enumerate(pairs, 1)]


def keys(found: list[Record]) -> list[str]:
    keyed = list(game_keys(found))
    assert [record for record, _ in keyed] == found
    return [key for _, key in keyed]


def played_prompts(grid_size: int, style: str, mode: str, games: int) -> tuple[list[str], list[int]]:
    prompts, played = [], []
    for seed in range(games):
        state = new_game(grid_size, seed, mode)
        while state.end is None and state.steps < 300:
            prompts.append(render_prompt(state, style))
            played.append(seed)
            state = step(state, POLICIES["bfs"](state))
    return prompts, played


@pytest.mark.parametrize("mode", ["classic", "wrap", "obstacles"])
@pytest.mark.parametrize("style", PROMPT_STYLES)
def test_games_are_found_again_without_their_ids(style: str, mode: str) -> None:
    prompts, played = played_prompts(8, style, mode, 5)
    with_ids, without = keys(records(prompts, list(played))), keys(records(prompts, [None] * len(prompts)))
    assert len(set(with_ids)) == len(set(without)) == 5
    assert len(set(zip(with_ids, without, strict=True))) == 5
    assert max(map(without.count, without)) > 20


def test_a_game_with_an_id_is_one_game_wherever_its_lines_stand() -> None:
    start, later = "head 55 apple 12 body -", "head 56 apple 12 body 55"
    found = keys(records([start, later, start, later, later], ["x", "y", "x", 1, "1"]))
    assert found[0] == found[2]
    assert len(set(found)) == 4
    one, other = records([start], ["x"], "a.jsonl"), records([start], ["x"], "b.jsonl")
    assert len(set(keys(one + other))) == 2


def test_lines_without_an_id_beside_lines_with_one() -> None:
    start, later = "head 55 apple 12 body -", "head 56 apple 12 body 55"
    found = keys(records([start, start, later, start, later], [None, 1, None, 1, None]))
    assert found[0] == found[2] == found[4]
    assert found[1] == found[3] != found[0]


def test_unknown_dialects_are_cut_into_blocks_and_files_kept_apart() -> None:
    prompts = [f"Where next? {i}" for i in range(2 * UNKNOWN_BLOCK_LINES + 1)]
    found = keys(records(prompts, [None] * len(prompts)) + records(prompts[:3], [None] * 3, "b.jsonl"))
    sizes = [found.count(key) for key in dict.fromkeys(found)]
    assert sizes == [UNKNOWN_BLOCK_LINES, UNKNOWN_BLOCK_LINES, 1, 3]


def test_a_long_game_of_a_known_dialect_is_not_cut() -> None:
    prompts = ["head 55 apple 12 body -"] + ["head 56 apple 12 body 55"] * 3 * UNKNOWN_BLOCK_LINES
    assert len(set(keys(records(prompts, [None] * len(prompts))))) == 1


def test_keys_stay_the_same_when_the_data_moves(tmp_path: Path) -> None:
    def keys_below(root: Path) -> list[str]:
        files = [root / "x/bfs/B.jsonl", root / "y/bfs/B.jsonl"]
        found = [record for file in files for record in records(["p"], [3], str(file))]
        return [key for _, key in game_keys(found, common_root(files))]

    here, there = keys_below(tmp_path / "here"), keys_below(tmp_path / "there/deeper")
    assert here == there == ["x/bfs/B.jsonl#3", "y/bfs/B.jsonl#3"]
    assert common_root([tmp_path / "x/a.jsonl"]) == tmp_path / "x"


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
    code = "from snake_dist.data.game_keys import game_hash; print(game_hash('a.jsonl#7', 3))"
    other = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "1"}, capture_output=True, check=True)
    assert int(other.stdout) == game_hash("a.jsonl#7", 3)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        held_out_games(["a", "b"], fraction, 0)


def test_one_game_cannot_be_split() -> None:
    with pytest.raises(InputError, match="has 1, at least 2"):
        held_out_games(["a", "a"], 0.5, 0)
