"""Search against plain searches written here, and against the rules."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import pytest

from snake_dist.game.board import Cell, End, Move, State, destination
from snake_dist.game.rules import legal_moves, step
from snake_dist.heuristics.bitboard import as_bits, as_cells, bits, cells, open_cells, spreader
from snake_dist.heuristics.policies import bfs_safe
from snake_dist.heuristics.search import (
    body_after,
    distances,
    optimal_moves,
    safe_first_moves,
    shortest_first_moves,
    shortest_path,
    tail_distance,
    tail_distances,
)
from tests.support.positions import positions

U, D, L, R = Move.UP, Move.DOWN, Move.LEFT, Move.RIGHT


def position(*body: Cell, apple: Cell = (0, 3), mode: str = "classic") -> State:
    return State(4, mode, body, apple, frozenset(), rng=1, score=len(body) - 1)


def plain_free(state: State) -> set[Cell]:
    taken = state.body[:-1] if len(state.body) > 2 else state.body
    return set(state.neighbors) - set(taken)


def plain_distances(state: State, start: Cell, free: set[Cell]) -> dict[Cell, int]:
    found, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        for move in Move:
            there = destination(state, cell, move)
            if there in free and there not in found:
                found[there] = found[cell] + 1
                queue.append(there)
    return found


def plain_tail_distance(state: State) -> int | None:
    """Steps to the own tail's cell over cells free of body."""
    free = set(state.neighbors) - set(state.body) | {state.body[-1]}
    return plain_distances(state, state.head, free).get(state.body[-1])


def plain_paths(state: State, length: int) -> Iterator[list[Move]]:
    """Every way to be on the apple in `length` steps over cells that are free now."""
    free = plain_free(state)
    to_apple = plain_distances(state, state.apple, free | {state.head})

    def walk(cell: Cell, path: list[Move]) -> Iterator[list[Move]]:
        if len(path) == length:
            yield path
        for move in Move:
            there = destination(state, cell, move)
            if there in free and len(path) + 1 + to_apple.get(there, length) == length:
                yield from walk(there, [*path, move])

    return walk(state.head, [])


def test_the_positions_are_many_and_varied() -> None:
    assert len(positions()) > 400
    assert len({(state.grid_size, state.mode) for state in positions()}) == 12
    assert sum(not list(safe_first_moves(state)) for state in positions()) > 40
    assert any(shortest_first_moves(state)[1] is None for state in positions())
    assert any(not tail_distances(state) for state in positions())


def test_distances_equal_a_plain_search() -> None:
    for state in positions():
        for start in {state.head, state.apple}:
            assert distances(state, start) == plain_distances(state, start, plain_free(state))


def test_shortest_path_is_shortest_and_can_be_walked() -> None:
    for state in positions():
        length = plain_distances(state, state.head, set(state.free_cells())).get(state.apple)
        path = shortest_path(state)
        assert (path and len(path)) == length
        if path is None:
            continue
        walked = state
        for move in path:
            assert walked.score == state.score
            walked = step(replace(walked, steps_since_apple=0), move)
        assert walked.score == state.score + 1
        assert walked.body == body_after(state, path)


def test_first_moves_of_shortest_paths_equal_an_enumeration() -> None:
    for state in positions():
        length = plain_distances(state, state.head, plain_free(state)).get(state.apple)
        paths = plain_paths(state, length) if length else []
        assert shortest_first_moves(state) == ({path[0] for path in paths}, length)


def test_tail_distances_equal_a_plain_search_after_each_legal_move() -> None:
    for state in positions():
        after = {move: plain_tail_distance(step(state, move)) for move in legal_moves(state)}
        assert tail_distances(state) == {move: steps for move, steps in after.items() if steps is not None}
        assert tail_distance(state, state.body) == plain_tail_distance(state)


def test_optimal_moves_equal_an_enumeration_of_all_shortest_paths() -> None:
    kinds = set()
    for state in positions():
        length = plain_distances(state, state.head, plain_free(state)).get(state.apple, 0)
        paths = list(plain_paths(state, length)) if length else []
        safe = {
            path[0] for path in paths if plain_tail_distance(replace(state, body=body_after(state, path))) is not None
        }
        open_tail = {move for move in legal_moves(state) if plain_tail_distance(step(state, move)) is not None}
        assert optimal_moves(state) == (safe or open_tail or set(legal_moves(state)))
        assert list(safe_first_moves(state)) == [move for move in Move if move in safe]
        kinds.add("safe" if safe else "open tail" if open_tail else "legal")
        assert bfs_safe(state) in optimal_moves(state)
    assert kinds == {"safe", "open tail", "legal"}


def test_the_tails_cell_is_a_way_through_but_not_the_necks() -> None:
    # The head's only way out of the corner is the cell the tail leaves.
    corner = position((0, 0), (0, 1), (1, 1), (1, 0), apple=(3, 3))
    assert shortest_first_moves(corner) == ({R}, 6)
    assert shortest_path(corner) is None
    assert step(corner, R).end is None
    pair = position((0, 0), (0, 1), apple=(0, 2))
    assert shortest_path(pair) == [R, U, U, L]
    assert shortest_first_moves(pair) == ({R}, 4)


def test_a_path_into_a_dead_end_is_not_tail_safe() -> None:
    # The apple lies in the corner behind the body: eating it leaves no way out.
    state = position((0, 1), (1, 1), (1, 0), (2, 0), (3, 0), (3, 1), apple=(0, 0))
    assert shortest_first_moves(state) == ({D}, 1)
    assert list(safe_first_moves(state)) == []
    assert step(state, D).end is End.TRAPPED
    assert optimal_moves(state) == {U}
    assert bfs_safe(state) is U


def test_wrap_distances_go_over_the_edge() -> None:
    assert shortest_first_moves(position((0, 0), apple=(3, 3), mode="wrap"))[1] == 2
    assert shortest_first_moves(position((0, 0), apple=(3, 3)))[1] == 6


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("grid_size", [4, 5, 10, 50])
def test_bitboard_spreads_one_move_and_no_further(grid_size: int, wrap: bool) -> None:
    empty = State(grid_size, "wrap" if wrap else "classic", (), None, frozenset(), rng=0)
    board = open_cells(grid_size, frozenset())
    assert board.bit_count() == len(bits(grid_size)) == len(cells(grid_size)) == grid_size**2
    for cell, bit in bits(grid_size).items():
        reached = as_cells(grid_size, spreader(grid_size, wrap)(bit) & board)
        assert reached == sorted({there for _, there in empty.neighbors[cell]})
        assert as_bits(grid_size, [cell]) == bit
