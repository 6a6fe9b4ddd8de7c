"""Every policy: legal, pure, and as good as the reference play it is measured against."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from statistics import mean, stdev

import pytest

from snake_dist.errors import InputError
from snake_dist.game.board import Cell, Move, State
from snake_dist.game.rules import SEED_RANGES, legal_moves, new_game, step
from snake_dist.heuristics.policies import POLICIES, check_policy, plays_on, random_legal
from snake_dist.heuristics.search import apple_distance, distances, shortest_path
from tests.support.positions import positions

# Mean apples on 6x6 in 2,000 games of an independent implementation; steps to fill where all games fill it.
REFERENCE_APPLES = {"random-legal": (5.36, 200), "greedy": (14.9, 500), "bfs": (16.1, 500), "bfs-safe": (34.6, 120)}
REFERENCE_STEPS = {"hamiltonian": (332, 100)}
REFERENCE_SHORTCUT_STEPS = 230
Z_999 = 3.29  # 99.9 % of a normal distribution, both sides


def position(*body: Cell, apple: Cell, mode: str = "classic", grid_size: int = 6) -> State:
    return State(grid_size, mode, body, apple, frozenset(), rng=1, score=len(body) - 1)


def final_states(policy: str, num_games: int) -> list[State]:
    ended = []
    for seed in SEED_RANGES["dev"][:num_games]:
        state = new_game(6, seed)
        while state.end is None:
            state = step(state, POLICIES[policy](state))
        ended.append(state)
    return ended


def assert_mean(values: list[int], reference: float) -> None:
    error = stdev(values) / len(values) ** 0.5
    assert abs(mean(values) - reference) < Z_999 * error
    assert error < 0.05 * reference, "too few games to tell"


@pytest.mark.parametrize("policy", REFERENCE_APPLES)
def test_apples_reproduce_the_reference(policy: str) -> None:
    reference, num_games = REFERENCE_APPLES[policy]
    assert_mean([state.score for state in final_states(policy, num_games)], reference)


@pytest.mark.parametrize("policy", REFERENCE_STEPS)
def test_steps_to_fill_reproduce_the_reference(policy: str) -> None:
    reference, num_games = REFERENCE_STEPS[policy]
    ended = final_states(policy, num_games)
    assert {state.score for state in ended} == {35}
    assert_mean([state.steps for state in ended], reference)


def test_shortcuts_fill_the_board_in_fewer_steps_than_the_reference() -> None:
    steps = [state.steps for state in final_states("hamiltonian-shortcuts", 200)]
    assert mean(steps) + Z_999 * stdev(steps) / len(steps) ** 0.5 < REFERENCE_SHORTCUT_STEPS


@pytest.mark.parametrize("policy", POLICIES)
def test_moves_are_legal_and_a_function_of_the_state(policy: str) -> None:
    for state in positions():
        if not plays_on(policy, state.grid_size, state.mode):
            continue
        move = POLICIES[policy](state)
        assert move in legal_moves(state)
        assert POLICIES[policy](replace(state)) is move


def test_random_legal_is_uniform_and_changes_with_every_step() -> None:
    state = position((2, 2), apple=(5, 5))
    drawn = [random_legal(replace(state, steps=steps, rng=rng)) for rng in range(30) for steps in range(100)]
    counts = Counter(drawn)
    assert set(counts) == set(Move)
    assert all(abs(count - 750) < 4 * (3000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    repeats = sum(first is second for first, second in pairwise(drawn))
    assert abs(repeats - 750) < 4 * (3000 * 0.25 * 0.75) ** 0.5


def test_greedy_takes_the_nearest_legal_move_over_edges_too() -> None:
    for state in positions():
        gaps = {move: apple_distance(state, step(state, move).head) for move in legal_moves(state)}
        assert gaps[POLICIES["greedy"](state)] == min(gaps.values())
    assert POLICIES["greedy"](position((0, 2), apple=(5, 2), mode="wrap")) is Move.LEFT
    assert POLICIES["greedy"](position((0, 2), apple=(5, 2))) is Move.RIGHT


def test_bfs_and_astar_follow_shortest_paths() -> None:
    for state in positions():
        path = shortest_path(state)
        for policy in ("bfs", "astar"):
            move = POLICIES[policy](state)
            if path is None:
                assert move is random_legal(state)
                continue
            there = step(state, move).head
            blocked = replace(state, obstacles=state.obstacles.union(state.body))
            assert distances(blocked, there).get(state.apple) == len(path) - 1


def test_dfs_heads_for_the_apple_and_never_into_a_part_without_it() -> None:
    state = position((0, 0), apple=(4, 3))
    for _ in range(7):
        state = step(state, POLICIES["dfs"](state))
    assert state.score == 1
    for state in positions():
        if shortest_path(state):
            blocked = replace(state, obstacles=state.obstacles.union(state.body))
            assert state.apple in distances(blocked, step(state, POLICIES["dfs"](state)).head)


def test_apple_distance_is_the_distance_on_the_empty_board() -> None:
    for state in positions():
        if state.mode != "obstacles":
            empty = replace(state, body=(state.apple,))
            assert all(apple_distance(state, cell) == d for cell, d in distances(empty, state.apple).items())


def test_unknown_policy_is_refused_with_the_choices() -> None:
    check_policy("bfs-safe")
    with pytest.raises(InputError, match=r"'bfs_safe'.*random-legal.*hamiltonian-shortcuts"):
        check_policy("bfs_safe")
