from __future__ import annotations

from pathlib import Path

import pytest

from snake_dist.data.game_keys import UNKNOWN_BLOCK_LINES, common_root, game_keys
from snake_dist.data.records import Record
from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import PROMPT_STYLES, render_prompt


def records(prompts: list[str], games: list[str | int | None], file: str = "a.jsonl") -> list[Record]:
    pairs = zip(prompts, games, strict=True)
    return [Record(prompt, "UP", game, None, file, line) for line, (prompt, game) in enumerate(pairs, 1)]


def keys(found: list[Record]) -> list[str]:
    keyed = list(game_keys(found, Path.cwd()))
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
