"""The rules: every end reason, the tail, wrap-around, obstacles, apples, seeds, and what always holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snake_dist.errors import InputError
from snake_dist.game.board import MODES, Cell, End, Move, State, destination
from snake_dist.game.rules import (
    OBSTACLE_SHARE,
    SEED_RANGES,
    _stays_biconnected,
    check_game_options,
    end_game,
    fatal_reason,
    legal_moves,
    new_game,
    random_below,
    step,
)

U, D, L, R = Move.UP, Move.DOWN, Move.LEFT, Move.RIGHT


def position(*body: Cell, apple: Cell = (0, 3), mode: str = "classic", grid_size: int = 4) -> State:
    return State(grid_size, mode, body, apple, frozenset(), rng=1, score=len(body) - 1)


def play(state: State, *moves: Move) -> State:
    for move in moves:
        state = step(state, move)
    return state


SNAKE_15 = tuple((x, y) for x in range(4) for y in (range(4) if x % 2 == 0 else range(3, -1, -1)))[1:]
ENDINGS = {
    End.WALL: lambda: play(position((3, 1)), R),
    End.SELF: lambda: play(position((1, 1), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1)), U),
    End.REVERSAL: lambda: play(position((1, 1), (2, 1), (3, 1)), R),
    End.TRAPPED: lambda: play(position((0, 1), (1, 1), (1, 0), (2, 0), (3, 0)), D),
    End.STARVED: lambda: play(position((2, 2)), *[R, L] * 32),
    End.INVALID_REPLY: lambda: end_game(position((2, 2)), End.INVALID_REPLY),
    End.STEP_CAP: lambda: end_game(position((2, 2)), End.STEP_CAP),
    End.BOARD_FULL: lambda: play(position(*SNAKE_15, apple=(0, 0)), D),
}


@pytest.mark.parametrize("reason", End)
def test_every_end_reason_is_reached(reason: End) -> None:
    ended = ENDINGS[reason]()
    assert ended.end is reason
    with pytest.raises(ValueError, match=reason.value):
        step(ended, U)


def test_hitting_an_obstacle_ends_as_wall() -> None:
    state = replace(position((1, 1), mode="obstacles"), obstacles=frozenset({(1, 2)}))
    assert step(state, U).end is End.WALL


def test_fatal_move_leaves_the_snake_and_counts_the_step() -> None:
    state = position((3, 1), (2, 1))
    assert step(state, R) == replace(state, steps=1, end=End.WALL)


def test_end_reasons_sum_to_all_games() -> None:
    ends: Counter[End | None] = Counter()
    for seed in range(150):
        state, rng = new_game(4, seed, MODES[seed % 3]), seed
        while state.end is None:
            rng, index = random_below(rng, 400)
            choice = list(Move)[index % 4] if index < 40 else legal_moves(state)[index % len(legal_moves(state))]
            state = end_game(state, End.INVALID_REPLY) if index == 399 else step(state, choice)
        ends[state.end] += 1
    assert ends.total() == 150
    assert None not in ends
    assert {End.WALL, End.REVERSAL, End.INVALID_REPLY} <= set(ends)


def test_starvation_takes_exactly_4_n_squared_steps() -> None:
    almost = play(position((2, 2)), *[R, L] * 31, R)
    assert (almost.end, almost.steps_since_apple) == (None, 63)
    assert step(almost, L).end is End.STARVED


def test_an_apple_resets_starvation() -> None:
    state = replace(position((0, 2)), steps_since_apple=63)
    eaten = step(state, U)
    assert (eaten.end, eaten.steps_since_apple, eaten.score) == (None, 0, 1)


def test_step_is_pure() -> None:
    state = new_game(6, 3)
    kept = replace(state)
    assert step(state, U) == step(state, U)
    assert state == kept


def test_tail_cell_may_be_entered() -> None:
    square = position((1, 1), (1, 2), (2, 2), (2, 1))
    assert fatal_reason(square, R) is None
    assert step(square, R).body == ((2, 1), (1, 1), (1, 2), (2, 2))


def test_tail_of_a_snake_of_length_2_is_its_neck() -> None:
    assert step(position((1, 1), (1, 2)), U).end is End.REVERSAL


def test_length_1_may_turn_around() -> None:
    assert play(position((1, 1)), U, D).body == ((1, 1),)


def test_eating_grows_at_the_head() -> None:
    grown = step(position((1, 1), (1, 0), apple=(1, 2)), U)
    assert (grown.body, grown.score) == (((1, 2), (1, 1), (1, 0)), 2)
    assert grown.apple is not None
    assert grown.apple not in grown.body


@pytest.mark.parametrize(("move", "there"), [(U, (0, 0)), (L, (3, 3)), (D, (0, 2)), (R, (1, 3))])
def test_wrap_connects_the_edges(move: Move, there: Cell) -> None:
    assert step(position((0, 3), apple=(2, 1), mode="wrap"), move).head == there


def test_reversal_over_the_edge() -> None:
    assert step(position((0, 1), (3, 1), (2, 1), mode="wrap"), L).end is End.REVERSAL


def reachable(state: State, start: Cell, closed: set[Cell]) -> set[Cell]:
    seen, queue = {start, *closed}, [start]
    for cell in queue:
        queue += {there for _, there in state.neighbors[cell]} - seen
        seen.update(queue)
    return seen - closed


@pytest.mark.parametrize("grid_size", [4, 5, 8, 10])
def test_obstacles_never_cut_the_board_nor_leave_a_single_cell_that_could(grid_size: int) -> None:
    drawn = set()
    for seed in range(40):
        state = new_game(grid_size, seed, "obstacles")
        drawn.add(state.obstacles)
        free = {(x, y) for x in range(grid_size) for y in range(grid_size)} - state.obstacles
        assert set(state.neighbors) == free == reachable(state, state.head, set())
        assert all(reachable(state, min(free - {cell}), {cell}) == free - {cell} for cell in free)
        assert len(state.neighbors[state.head]) == 4
        assert state.apple not in state.obstacles
        assert len(state.obstacles) <= round(OBSTACLE_SHARE * grid_size**2)
    assert len(drawn) > 1


@pytest.mark.parametrize(("closed", "stays"), [((4, 2), False), ((0, 5), True)])
def test_the_start_may_not_be_the_only_way_to_a_cell(closed: Cell, stays: bool) -> None:
    state = replace(position((2, 2), grid_size=6), obstacles=frozenset({(3, 1), (3, 3)}))
    open_to = {cell: {there for _, there in reached} for cell, reached in state.neighbors.items()}
    assert _stays_biconnected(open_to, (2, 2), closed) is stays


def assert_uniform(counts: Counter[Cell | None], cells: set[Cell]) -> None:
    """Chi-square within six standard deviations of its mean; exactly these cells occur."""
    assert set(counts) == cells
    expected, freedom = counts.total() / len(cells), len(cells) - 1
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(chi_square - freedom) < 6 * (2 * freedom) ** 0.5


def test_first_apples_are_uniform_over_free_cells() -> None:
    apples = Counter(new_game(5, seed).apple for seed in range(4800))
    assert_uniform(apples, {(x, y) for x in range(5) for y in range(5)} - {(2, 2)})


def test_later_apples_are_uniform_and_never_on_the_snake() -> None:
    body = ((1, 1), (1, 2), (2, 2), (2, 1), (3, 1), (3, 0))
    state = position(*body, apple=(1, 0))
    apples = Counter(step(replace(state, rng=random_below(seed, 2)[0]), D).apple for seed in range(4500))
    assert_uniform(apples, {(x, y) for x in range(4) for y in range(4)} - {*body, (1, 0)})


def test_seed_ranges_are_disjoint() -> None:
    ranges = sorted(SEED_RANGES.values(), key=lambda seeds: seeds.start)
    assert set(SEED_RANGES) == {"train", "dev", "test"}
    assert all(len(seeds) >= 10_000_000 for seeds in ranges)
    assert all(first.stop <= second.start for first, second in pairwise(ranges))


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_game_other_seed_other_game(mode: str) -> None:
    def apples(seed: int) -> list[State]:
        states = [new_game(6, seed, mode)]
        while states[-1].end is None:
            states.append(step(states[-1], legal_moves(states[-1])[0]))
        return states

    assert apples(5) == apples(5)
    assert len({new_game(6, seed, mode) for seed in range(40)}) == 40


def test_a_game_on_4x4_fills_the_board() -> None:
    loop = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3), (2, 3), (2, 2), (2, 1), (1, 1), (1, 2), (1, 3)]
    loop += [(0, 3), (0, 2), (0, 1)]
    follow = dict(zip(loop, loop[1:] + loop[:1], strict=True))
    state = new_game(4, 11)
    while state.end is None:
        state = step(state, next(move for move, there in state.neighbors[state.head] if there == follow[state.head]))
    assert (state.end, state.score, state.apple) == (End.BOARD_FULL, 15, None)
    assert len(set(state.body)) == 16


@pytest.mark.parametrize(
    ("grid_size", "mode", "named"), [(3, "classic", "3"), (51, "wrap", "51"), (10, "torus", "torus")]
)
def test_impossible_games_are_refused(grid_size: int, mode: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_game_options(grid_size, mode)
    with pytest.raises(InputError, match=named):
        new_game(grid_size, 0, mode)


@settings(max_examples=150)
@given(st.integers(4, 8), st.integers(0, 2**63), st.sampled_from(MODES), st.lists(st.integers(0, 99), max_size=150))
def test_invariants_of_random_play(grid_size: int, seed: int, mode: str, choices: list[int]) -> None:
    state = new_game(grid_size, seed, mode)
    for choice in choices:
        legal = legal_moves(state)
        fatal = {move for move in Move if step(state, move).end in (End.WALL, End.SELF, End.REVERSAL)}
        assert set(legal) == set(Move) - fatal
        state = step(state, legal[choice % len(legal)])
        assert len(set(state.body)) == len(state.body) == state.score + 1
        for ahead, behind in pairwise(state.body):
            assert ahead in [destination(state, behind, move) for move in Move]
        free = state.free_cells()
        assert len(free) + len(state.body) + len(state.obstacles) == grid_size**2
        assert state.apple in free or (state.apple is None and state.end is End.BOARD_FULL)
        if state.end is not None:
            break
