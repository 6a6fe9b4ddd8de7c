from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from snake_dist.data import game_lines as games_module
from snake_dist.data.game_keys import game_keys
from snake_dist.data.game_lines import LOST
from snake_dist.data.generation import default_output_dir, generate
from snake_dist.data.generation_config import GenerationConfig, check_generation
from snake_dist.data.parallel import ordered_map
from snake_dist.data.records import check_train_seed, read_records
from snake_dist.data.sources import resolve_paths
from snake_dist.errors import InputError
from snake_dist.game.board import MODES, End, Move, State
from snake_dist.game.rules import SEED_RANGES, end_game, legal_moves, new_game, step
from snake_dist.game.symmetry import NUM_SYMMETRIES, transform_cell, transform_move, transform_state
from snake_dist.heuristics.policies import POLICIES
from snake_dist.heuristics.search import begins_shortest_path
from snake_dist.styles.catalog import render_completion, render_prompt
from snake_dist.styles.replies import parse_moves, parse_reply
from tests.support.processes import launcher, run_program

SMALL = GenerationConfig(policy="bfs", grid_size=5, games=6, seed=40)


def run(directory: Path, config: GenerationConfig, workers: int = 1) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(summary, lines) of a data set written to `directory`."""
    summary = generate(config, directory, workers=workers)
    assert summary == json.loads((directory / "summary.json").read_text())
    text = (directory / f"{config.policy.upper()}_dataset.jsonl").read_text()
    return summary, [json.loads(line) for line in text.splitlines()]


def replay(directory: Path, number: int) -> tuple[list[State], dict[str, Any]]:
    """(states of the game by step, the last one ended; the game's file), every apple and the end compared."""
    game = json.loads((directory / f"game_{number}.json").read_text())
    states = [new_game(game["grid_size"], game["seed"], game["mode"])]
    for move, apple in zip(game["moves"], game["apples"], strict=True):
        assert states[-1].apple == tuple(apple)
        states.append(step(states[-1], Move(move)))
    if game["end"] == "step_cap":
        states[-1] = end_game(states[-1], End.STEP_CAP)
    last = states[-1]
    assert (last.score, last.steps, last.end) == (game["score"], game["steps"], End(game["end"]))
    return states, game


@pytest.mark.parametrize("mode", MODES)
def test_a_data_set_is_its_games_move_by_move_to_the_last(tmp_path: Path, mode: str) -> None:
    config = replace(SMALL, mode=mode, style="board", random_move_rate=0.2)
    summary, lines = run(tmp_path / "out", config)
    expected, ends, scores, num_moves, num_random = [], Counter(), [], 0, 0
    for number in range(1, 7):
        states, game = replay(tmp_path / "out", number)
        assert (game["game_id"], game["seed"], game["policy"]) == (number, 39 + number, "bfs")
        for state, played in zip(states, game["moves"], strict=False):
            taught = POLICIES["bfs"](state)
            num_random += taught != played
            expected.append(
                {
                    "prompt": render_prompt(state, "board"),
                    "completion": render_completion(state, taught, "board", "bfs"),
                    "game_id": number,
                    "step": state.steps,
                    "grid_size": 5,
                    "mode": mode,
                    "policy": "bfs",
                    "style": "board",
                    "seed": 39 + number,
                    "snake_length": len(state.body),
                }
            )
        ends[states[-1].end] += 1
        scores.append(states[-1].score)
        num_moves += len(game["moves"])
    assert lines == expected
    # A random move is often the taught one.
    assert 0.05 < num_random / num_moves < 0.2
    assert summary["ends"] == {end.value: ends[end] for end in End}
    assert sum(summary["ends"].values()) == summary["games"] == 6
    assert summary["score"] == {"mean": sum(scores) / 6, "min": min(scores), "max": max(scores)}
    assert summary["seeds"] == {"first": 40, "last": 45}
    assert summary["moves"] == summary["lines"]["kept"] == summary["lines"]["written"] == num_moves


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    config = replace(SMALL, games=9, random_move_rate=0.3, augment_symmetries=True, min_score=4)
    for workers in (1, 2):
        generate(config, tmp_path / str(workers), workers=workers)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / w).iterdir()} for w in ("1", "2"))
    assert one == two
    assert set(one) == {"BFS_dataset.jsonl", "summary.json", *(f"game_{i}.json" for i in range(1, 10))}
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}
    # Game i is the same game in any data set that holds its seed.
    generate(replace(config, games=2, seed=config.seed + 3), tmp_path / "3", workers=1)
    first = json.loads((tmp_path / "3" / "game_1.json").read_text())
    assert first | {"game_id": 4} == json.loads(one["game_4.json"])


def test_filters_take_out_what_they_say_and_count_it(tmp_path: Path) -> None:
    base = replace(SMALL, games=20, policy="bfs-safe", grid_size=4, random_move_rate=0.4)
    summary, lines = run(tmp_path / "all", base)
    states = {number: replay(tmp_path / "all", number)[0] for number in range(1, 21)}
    minimum = sorted(found[-1].score for found in states.values())[8]
    weak = {number for number, found in states.items() if found[-1].score < minimum}
    lost = {number for number, found in states.items() if found[-1].end in LOST} - weak
    assert weak
    assert lost
    assert len(weak | lost) < 20

    def on_path(line: dict[str, Any]) -> bool:
        return begins_shortest_path(states[line["game_id"]][line["step"]], parse_reply(line["completion"]) or Move.UP)

    wanted = [line for line in lines if line["game_id"] not in weak | lost and on_path(line)]
    filters = replace(base, min_score=minimum, only_survived=True, only_shortest_path=True)
    filtered, kept = run(tmp_path / "kept", filters)
    assert kept == wanted
    num_weak, num_lost = (sum(len(states[number]) - 1 for number in out) for out in (weak, lost))
    off_path = len(lines) - num_weak - num_lost - len(wanted)
    assert off_path > 0
    assert filtered["lines"] == {
        "kept": len(wanted),
        "dropped": {
            "line_rate": 0,
            "min_snake_length": 0,
            "max_snake_length": 0,
            "max_lines_per_length": 0,
            "max_lines_per_prompt": 0,
            "min_score": num_weak,
            "only_survived": num_lost,
            "only_shortest_path": off_path,
            "only_declined_apple": 0,
            "only_blocked_apple": 0,
            "only_asked": 0,
        },
        "written": len(wanted),
    }
    assert filtered["games"] == 20
    assert filtered["ends"] == summary["ends"]
    thinned, some = run(tmp_path / "some", replace(base, line_rate=0.3))
    assert [line for line in lines if line in some] == some
    assert 0.2 < len(some) / len(lines) < 0.4
    assert thinned["lines"]["dropped"]["line_rate"] == len(lines) - len(some)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_prompt_gets_its_first_lines_alone(tmp_path: Path, workers: int) -> None:
    base = replace(SMALL, policy="bfs", grid_size=4, style="move", games=70)  # of several parts
    _, lines = run(tmp_path / "all", base)
    summary, kept = run(tmp_path / "kept", replace(base, max_lines_per_prompt=2), workers)
    seen, wanted = Counter[str](), []
    for line in lines:
        seen[line["prompt"]] += 1
        wanted += [line] if seen[line["prompt"]] <= 2 else []
    assert kept == wanted
    assert 0 < summary["lines"]["dropped"]["max_lines_per_prompt"] == len(lines) - len(kept)
    assert summary["lines"]["written"] == len(kept)


def test_long_snakes_get_as_many_lines_as_short_ones(tmp_path: Path) -> None:
    base = replace(SMALL, policy="hamiltonian", games=3)
    _, lines = run(tmp_path / "all", base)
    bounded = replace(base, min_snake_length=4, max_snake_length=20, max_lines_per_length=2)
    summary, kept = run(tmp_path / "kept", bounded)
    found = Counter((line["game_id"], line["snake_length"]) for line in kept)
    assert {length for _, length in found} == set(range(4, 21))
    assert max(found.values()) == 2
    everything = Counter((line["game_id"], line["snake_length"]) for line in lines)
    assert all(found[key] == min(2, count) for key, count in everything.items() if 4 <= key[1] <= 20)
    assert [line for line in lines if line in kept] == kept
    assert sum(summary["lines"]["dropped"].values()) == len(lines) - len(kept) == summary["moves"] - len(kept)
    steps = [line["step"] for line in kept if line["snake_length"] == 20]
    first = [
        min(line["step"] for line in lines if (line["game_id"], line["snake_length"]) == (game, 20))
        for game in (1, 2, 3)
    ]
    assert set(steps) - {step + i for step in first for i in (0, 1)}, "not always the first ones"


def check_only(tmp_path: Path, base: GenerationConfig, flag: str, is_wanted: Callable[[State, Move], bool]) -> None:
    """The lines that the filter `flag` keeps are those wanted, and all others are counted."""
    _, lines = run(tmp_path / "all", base)
    summary, kept = run(tmp_path / "kept", replace(base, **{flag: True}))
    states = {number: replay(tmp_path / "all", number)[0] for number in range(1, base.games + 1)}

    def taught(line: dict) -> Move:
        return (parse_moves(line["completion"]) or [Move.UP])[0]

    assert kept == [line for line in lines if is_wanted(states[line["game_id"]][line["step"]], taught(line))]
    assert 0 < len(kept) < len(lines) / 2
    assert summary["lines"]["dropped"][flag] == len(lines) - len(kept)


def test_only_positions_where_the_teacher_leaves_an_apple_beside_it(tmp_path: Path) -> None:
    base = replace(SMALL, policy="hamiltonian-shortcuts", style="cycle", grid_size=6)

    def is_declined(state: State, move: Move) -> bool:
        (x, y), (apple_x, apple_y) = state.head, state.apple
        is_beside = abs(x - apple_x) + abs(y - apple_y) == 1
        taken = step(state, move).score > state.score
        return is_beside and not taken

    check_only(tmp_path, base, "only_declined_apple", is_declined)


def test_only_positions_where_the_way_to_the_apple_is_blocked(tmp_path: Path) -> None:
    base = replace(SMALL, policy="bfs-safe", grid_size=6)

    def is_blocked(state: State, _: Move) -> bool:
        (x, y), (apple_x, apple_y) = state.head, state.apple
        toward = {
            Move.LEFT: apple_x < x,
            Move.RIGHT: apple_x > x,
            Move.UP: apple_y > y,
            Move.DOWN: apple_y < y,
        }
        return not any(toward[move] for move in legal_moves(state))

    check_only(tmp_path, base, "only_blocked_apple", is_blocked)


def test_only_positions_at_which_a_player_is_asked(tmp_path: Path) -> None:
    base = replace(SMALL, policy="bfs-safe", style="path", grid_size=6)
    _, lines = run(tmp_path / "all", base)
    summary, kept = run(tmp_path / "kept", replace(base, only_asked=True))
    assert summary["lines"]["dropped"]["only_asked"] == len(lines) - len(kept) > len(lines) / 2
    by_step = {(line["game_id"], line["step"]): line for line in lines}
    asked = []
    for number in range(1, base.games + 1):
        states, step_number = replay(tmp_path / "kept", number)[0], 0
        while states[step_number].end is None:
            asked.append(by_step[number, step_number])
            score = states[step_number].score
            for _ in parse_moves(asked[-1]["completion"]) or ():
                step_number += 1
                if states[step_number].score > score:
                    break
    assert kept == asked
    # A move that is not the reply's asks anew, and a player of one move is asked always.
    _, strayed = run(tmp_path / "strayed", replace(base, only_asked=True, random_move_rate=0.5))
    assert len(strayed) > len(kept) * 1.2
    _, single = run(tmp_path / "single", replace(base, style="compact", only_asked=True))
    assert len(single) == len(lines)


def test_every_line_is_written_in_all_symmetries(tmp_path: Path) -> None:
    config = replace(SMALL, games=2, mode="obstacles", style="sentence")
    _, plain = run(tmp_path / "plain", config)
    summary, lines = run(tmp_path / "augmented", replace(config, augment_symmetries=True))
    assert [{k: v for k, v in line.items() if k != "symmetry"} for line in lines if line["symmetry"] == 0] == plain
    assert summary["lines"] == {**summary["lines"], "kept": len(plain), "written": 8 * len(plain)}
    states = {number: replay(tmp_path / "augmented", number)[0] for number in (1, 2)}
    for i in range(0, len(lines), 8):
        copies = lines[i : i + 8]
        assert [copy["symmetry"] for copy in copies] == list(range(8))
        assert len({copy["prompt"] for copy in copies}) == 8
        assert len({(copy["game_id"], copy["step"], copy["seed"]) for copy in copies}) == 1
        for copy in copies:
            shown = transform_state(states[copy["game_id"]][copy["step"]], copy["symmetry"])
            assert copy["prompt"] == render_prompt(shown, "sentence")
            assert parse_reply(copy["completion"]) in legal_moves(shown)
    # Copies stay on their game's side of a split.
    found = list(game_keys(read_records(resolve_paths([tmp_path / "augmented"])), tmp_path))
    assert len({key for _, key in found}) == 2


def test_symmetries_are_the_eight_of_the_square_and_keep_the_rules() -> None:
    state = new_game(6, 3, "obstacles")
    for _ in range(30):
        state = step(state, POLICIES["bfs"](state))
    assert len({transform_state(state, symmetry) for symmetry in range(NUM_SYMMETRIES)}) == 8
    assert transform_state(state, 0) == state
    for symmetry in range(NUM_SYMMETRIES):
        shown = transform_state(state, symmetry)
        for move in Move:
            turned, after = transform_move(move, symmetry), step(state, move)
            assert step(shown, turned).body == transform_state(after, symmetry).body
            assert step(shown, turned).end == after.end
        corner = transform_cell((0, 0), 6, symmetry)
        assert corner in {(0, 0), (0, 5), (5, 0), (5, 5)}


def test_a_game_can_be_stopped(tmp_path: Path) -> None:
    summary, lines = run(tmp_path / "out", replace(SMALL, policy="hamiltonian", grid_size=6, max_steps_per_game=7))
    assert summary["ends"]["step_cap"] == 6
    assert len(lines) == 42
    assert replay(tmp_path / "out", 6)[0][-1].steps == 7


def test_dev_and_test_games_need_to_be_asked_for(tmp_path: Path) -> None:
    for name in ("dev", "test"):
        seed = SEED_RANGES[name][0]
        with pytest.raises(InputError, match=f"seeds {seed - 1} to {seed + 4} are not all in the {name} range"):
            check_generation(replace(SMALL, seed=seed - 1, seed_range=name))
        with pytest.raises(InputError, match="not all in the train range: 0 to 999999999"):
            check_generation(replace(SMALL, seed=seed))
        generate(replace(SMALL, seed=seed, seed_range=name), tmp_path / name, workers=1)
        record = next(read_records(resolve_paths([tmp_path / name])))
        with pytest.raises(InputError, match=f"is a {name} seed, reserved for judging"):
            check_train_seed(record)
    with pytest.raises(InputError, match="seeds 999999995 to 1000000000"):
        check_generation(replace(SMALL, seed=999_999_995))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "perfect"}, "'perfect': choose from random-legal, greedy"),
        ({"grid_size": 3}, "3 is outside 4 to 50"),
        ({"mode": "torus"}, "'torus': choose from classic, wrap"),
        ({"games": 0}, "--games 0: at least 1"),
        ({"style": "prose"}, "'prose': choose from sentence"),
        ({"seed": -1}, "seeds -1 to 4"),
        ({"seed_range": "all"}, "'all': choose from train, dev, test"),
        ({"max_steps_per_game": -1}, "--max-steps-per-game -1: at least 0"),
        ({"random_move_rate": 1.5}, "--random-move-rate 1.5: 0 to 1"),
        ({"random_move_rate": float("nan")}, "--random-move-rate nan: 0 to 1"),
        ({"line_rate": 0.0}, "--line-rate 0.0: above 0, at most 1"),
        ({"min_score": 25}, "--min-score 25: 0 to 24"),
        ({"min_snake_length": 26}, "--min-snake-length 26: 0 to 25"),
        ({"min_snake_length": 9, "max_snake_length": 8}, "--min-snake-length 9 is above --max-snake-length 8"),
        ({"max_lines_per_length": -1}, "--max-lines-per-length -1: at least 0"),
        ({"max_lines_per_prompt": 1, "augment_symmetries": True}, "not with --augment-symmetries"),
        ({"style": "cycle"}, "--style cycle needs --policy hamiltonian-shortcuts: got bfs"),
        ({"style": "cycle", "policy": "hamiltonian-shortcuts", "mode": "obstacles"}, "not with --mode obstacles"),
    ],
)
def test_a_bad_configuration_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate(replace(SMALL, **change), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_directory_is_never_mixed_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "note.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("old", "is not empty"),
        ("file", "Not a directory"),
        ("file/below", "File exists: .*/file$"),
    ):
        with pytest.raises(InputError, match=message):
            generate(SMALL, tmp_path / name, workers=1)
    with pytest.raises(InputError, match="--workers 0: at least 1"):
        generate(SMALL, tmp_path / "new", workers=0)
    with pytest.raises(InputError, match="no line of 6 games passes the filters min_score 24, only_survived True"):
        generate(replace(SMALL, policy="greedy", min_score=24, only_survived=True), tmp_path / "new", workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "file", "empty"}
    generate(SMALL, tmp_path / "empty", workers=1)
    assert (tmp_path / "empty" / "summary.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(state: State, move: Move) -> State:
        if state.score == 3:
            raise error
        return step(state, move)

    monkeypatch.setattr(games_module, "step", fail)
    with pytest.raises(error):
        generate(SMALL, tmp_path / "out", workers=1)
    assert list(tmp_path.iterdir()) == []


def wait(seconds: float) -> float:
    if seconds < 0:
        raise InputError("negative")
    time.sleep(seconds)
    return seconds


def test_results_come_in_order_and_failures_stop_the_workers() -> None:
    with closing(ordered_map(wait, [0.3, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0], 2)) as results:
        assert list(results) == [0.3, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0]
    before = time.monotonic()
    with (
        pytest.raises(InputError, match="negative"),
        closing(ordered_map(wait, [-1.0, 300.0, 300.0], 2)) as results,
    ):
        list(results)
    with closing(ordered_map(wait, [0.0] + [300.0] * 9, 2)) as results:
        assert next(results) == 0.0
    assert time.monotonic() - before < 300, "nobody waited for a worker"
    assert multiprocessing.active_children() == []


def test_the_default_directory_is_the_public_layout() -> None:
    path = default_output_dir(GenerationConfig(grid_size=8), datetime(2025, 1, 2, 3, 4, 5))
    assert path.as_posix() == "logs/extensions/datasets/grid-size-8/heuristics_v0.04_20250102_030405/bfs-safe"


def test_the_launcher_writes_the_public_layout_and_fails_in_one_line(tmp_path: Path) -> None:
    flags = ["--policy", "greedy", "--grid-size", "6", "--games", "3", "--seed", "9", "--mode", "wrap"]
    flags += ["--style", "short", "--max-steps-per-game", "20", "--random-move-rate", "0.5", "--workers", "1"]
    done = run_program([*launcher("generate_data"), *flags], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (dataset,) = tmp_path.glob("logs/extensions/datasets/grid-size-6/heuristics_v0.04_*/greedy/GREEDY_dataset.jsonl")
    expected = GenerationConfig("greedy", 6, "wrap", 3, "short", 9, "train", 20, 0.5)
    generate(expected, tmp_path / "called", workers=1)
    assert dataset.read_bytes() == (tmp_path / "called" / dataset.name).read_bytes()
    for wrong in (["--polic", "bfs"], ["--policy", "x"], ["--games", "x"], ["--output", "called"]):
        failed = run_program([*launcher("generate_data"), *wrong], tmp_path)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert failed.stderr.startswith("generate_data.py: error: ")
        assert failed.stderr.count("\n") == 1
