"""Cell tree: no game is lost, boards fill as fast as independent runs of its rules do, and other boards are refused."""

from __future__ import annotations

from statistics import fmean

import pytest

from snake_dist.errors import InputError
from snake_dist.game.board import End, State
from snake_dist.game.rules import SEED_RANGES, legal_moves, new_game, step
from snake_dist.heuristics.cell_tree import cell_tree_move
from snake_dist.heuristics.policies import POLICIES


def least_expected_steps(n: int) -> float:
    """A lower bound of the steps to fill an n x n board from its centre.

    When k cells are free the head is on the last apple, uniform over the k + 1 cells that were free, and the next apple
    is uniform over k: at best the k + 1 cells with the shortest mean way to their k nearest ones.
    """
    cells = [(x, y) for x in range(n) for y in range(n)]
    nearest = {
        (x, y): sorted(abs(x - a) + abs(y - b) for a, b in cells if (a, b) != (x, y)) for x, y in cells
    }  # steps to each other cell
    total = fmean(nearest[n // 2, n // 2])
    for k in range(1, n * n - 1):
        total += fmean(sorted(fmean(ways[:k]) for ways in nearest.values())[: k + 1])
    return total


@pytest.mark.parametrize(("n", "bound"), [(4, 24.5), (5, 46.8), (6, 80.1), (8, 187.8), (10, 364.7)])
def test_the_lower_bound_in_the_docs(n: int, bound: float) -> None:
    assert least_expected_steps(n) == pytest.approx(bound, abs=0.05)


@pytest.mark.parametrize(
    ("n", "games", "steps", "of_others"), [(4, 400, 47.9, 50.3), (6, 150, 181.7, 188.0), (8, 30, 475.8, 490.0)]
)
def test_every_board_fills_as_fast_as_the_docs_say(n: int, games: int, steps: float, of_others: float) -> None:
    filled = []
    for seed in SEED_RANGES["dev"][:games]:
        state = new_game(n, seed)
        while state.end is None:
            move = cell_tree_move(state)
            assert move in legal_moves(state)  # its own games keep to its rules
            state = step(state, move)
        assert state.end is End.BOARD_FULL
        filled.append(state.steps)
    assert fmean(filled) == pytest.approx(steps, rel=0.04)
    assert fmean(filled) < of_others


def test_the_head_drives_on_the_right_and_enters_only_its_parent_and_free_cells() -> None:
    state = new_game(8, 3)
    while state.end is None:
        (x, y), move = state.head, cell_tree_move(state)
        assert move is not None
        assert move.value in (("UP" if x % 2 else "DOWN"), ("LEFT" if y % 2 else "RIGHT"))
        entered_from: dict[tuple[int, int], tuple[int, int]] = {}
        cells = [(a // 2, b // 2) for a, b in reversed(state.body)]
        for behind, own in zip([cells[0], *cells], cells, strict=False):
            entered_from.setdefault(own, behind)
        state = step(state, move)
        there = state.head[0] // 2, state.head[1] // 2
        assert there == cells[-1] or there not in entered_from or entered_from[cells[-1]] == there


def test_a_snake_against_the_roads_moves_as_bfs_safe() -> None:
    body = ((3, 2), (3, 3), (3, 4))  # it went down where roads go up
    against = State(6, "classic", body, (0, 0), frozenset(), rng=1, score=2)
    assert cell_tree_move(against) is None
    assert POLICIES["cell-tree"](against) is POLICIES["bfs-safe"](against)


def test_other_boards_are_refused_by_size_and_mode() -> None:
    boards: list[State] = [new_game(5, 0), new_game(6, 0, "wrap"), new_game(6, 0, "obstacles")]
    for state in boards:
        size = f"{state.grid_size} x {state.grid_size}, {state.mode}"
        with pytest.raises(InputError, match=f"cell-tree: boards of even size in classic mode, not {size}"):
            POLICIES["cell-tree"](state)
