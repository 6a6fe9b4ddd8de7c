"""Exact play on small boards: independently known values, games that reach them, moves that cost nothing."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.intervals import bootstrap_mean_interval
from snake_dist.evaluation.judging.regret import regret_of
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.board import End, Move
from snake_dist.game.rules import SEED_RANGES, new_game, step
from snake_dist.game.symmetry import NUM_SYMMETRIES, transform_move, transform_state
from snake_dist.heuristics.optimal import move_costs, optimal_move, solution_of, solve
from snake_dist.heuristics.policies import POLICIES


@pytest.mark.parametrize(("width", "height", "steps"), [(4, 4, 41.132), (5, 4, 59.019), (5, 5, 91.448)])
def test_expected_steps_from_the_centre_are_the_independent_ones(width: int, height: int, steps: float) -> None:
    solution = solve(width, height)
    assert solution.expected_steps((width // 2, height // 2)) == pytest.approx(steps, abs=5e-4)
    # Three lengths by hand: no cell is free, one is, and the apple beside the head of the last but one.
    assert not solution.mean_steps[-1].any()
    one_free = solution.mean_steps[-2]
    assert one_free[np.isfinite(one_free)].min() == 1


def test_its_games_fill_the_board_in_as_many_steps_and_without_regret() -> None:
    games = Games(4, "classic", SEED_RANGES["dev"][:300], 0)
    played = play_games(HeuristicPlayer(optimal_move), games)
    assert {episode.end for episode in played} == {End.BOARD_FULL.value}
    steps = [episode.steps for episode in played]
    low, high = bootstrap_mean_interval(steps, 0)  # type: ignore[misc]
    assert low - 0.2 < 41.132 < high + 0.2, fmean(steps)
    regret = regret_of(played)
    assert regret is not None
    assert regret["mean_steps"] == pytest.approx(0, abs=1e-3)
    assert regret["optimal_rate"]["value"] == 1
    assert regret["losing_rate"]["value"] == 0
    other = regret_of(play_games(HeuristicPlayer(POLICIES["greedy"]), games))
    assert other is not None
    assert other["mean_steps"] is not None
    assert other["mean_steps"] > 0.01
    assert 0 < other["losing_rate"]["value"] < 0.5  # type: ignore[operator]


def test_symmetric_positions_get_symmetric_moves() -> None:
    state = new_game(4, 11)
    while state.end is None:
        move = optimal_move(state)
        turned = [optimal_move(transform_state(state, i)) for i in range(NUM_SYMMETRIES)]
        if len({transform_state(state, i).body for i in range(NUM_SYMMETRIES)}) == NUM_SYMMETRIES:
            assert turned == [transform_move(move, i) for i in range(NUM_SYMMETRIES)]
        state = step(state, move)


def test_a_move_costs_one_step_and_what_is_left() -> None:
    state = new_game(4, 7)
    while state.end is None and len(state.body) < 9:
        costs = move_costs(state)
        move = optimal_move(state)
        moved = step(state, move)
        if moved.apple == state.apple:
            assert min(move_costs(moved).values()) == pytest.approx(costs[move] - 1, abs=1e-4)
        state = moved
    assert list(move_costs(state)) == [move for move in Move if move in move_costs(state)]


def test_other_boards_are_refused_by_size_and_mode() -> None:
    for size, mode in ((6, "classic"), (4, "wrap")):
        with pytest.raises(
            InputError, match=f"optimal: 4 x 4 and 5 x 5 in classic mode are solved, not {size} x {size}"
        ):
            optimal_move(new_game(size, 0, mode))
    assert regret_of(play_games(HeuristicPlayer(POLICIES["greedy"]), Games(6, "classic", range(1), 0))) is None


def test_the_solution_is_computed_once_for_a_user() -> None:
    solution_of(4)
    solution_of.cache_clear()
    assert solution_of(4).expected_steps((2, 2)) == pytest.approx(41.132, abs=5e-4)
