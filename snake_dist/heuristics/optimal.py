"""Exact play on small boards: the fewest expected steps to fill the board, among policies that never lose.

A state is a body and an apple. Between two apples moves are deterministic, and an apple lands on each free cell with
equal probability. So the values of all bodies of one length follow from those of the next: for each apple, the shortest
paths through bodies of this length to those that eat it. That is backward induction over the length (Bellman, 1957).

Bodies that mirror or turn into each other are one. A 5 x 5 board has 3.1 million bodies, 0.4 million up to symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from snake_dist.errors import InputError
from snake_dist.files import naming_errors, user_cache
from snake_dist.game.board import Cell, Move, State
from snake_dist.game.rules import legal_moves
from snake_dist.game.symmetry import inverse, lowest_turn, transform_move

SOLVED_SIZES = (4, 5)
TOLERANCE = 1e-3
"""Steps: costs are stored in 32 bits, and moves closer to each other than this are equally good."""


def optimal_move(state: State) -> Move:
    """Return a move of least expected steps; raises InputError on other boards.

    Of several it is the first in the order of `Move` on the board in its lowest turn: symmetric positions get symmetric
    moves.
    """
    costs = move_costs(state)
    least = min(costs.values())
    back = inverse(lowest_turn(state))
    in_order = (transform_move(move, back) for move in Move)
    return next(move for move in in_order if move in costs and costs[move] <= least + TOLERANCE)


def move_costs(state: State) -> dict[Move, float]:
    """Return legal move -> expected steps to fill the board, this one included; infinite where the snake may be lost.

    Raises InputError unless the board is a solved one.
    """
    check_is_solved(state.grid_size, state.mode)
    solution = solution_of(state.grid_size)
    assert state.apple is not None
    reached = dict(state.neighbors[state.head])
    return {move: 1 + solution.cost(state.body, state.apple, reached[move]) for move in legal_moves(state)}


def check_is_solved(grid_size: int, mode: str) -> None:
    """Raise InputError unless the board is a solved one."""
    if not is_solved(grid_size, mode):
        sizes = " and ".join(f"{size} x {size}" for size in SOLVED_SIZES)
        raise InputError(f"optimal: {sizes} in classic mode are solved, not {grid_size} x {grid_size} in {mode} mode")


def is_solved(grid_size: int, mode: str) -> bool:
    """Return whether every move on this board has an exact cost."""
    return grid_size in SOLVED_SIZES and mode == "classic"


@dataclass(frozen=True)
class Solution:
    """The expected steps to fill a board from every body and apple. Lists are indexed by length - 1."""

    board: _Board
    codes: list[np.ndarray]
    """int64 [bodies], sorted: one body of each class of symmetric ones."""
    steps: list[np.ndarray]
    """float32 [bodies, cells]: with the apple on this cell; infinite where it cannot lie."""
    mean_steps: list[np.ndarray]
    """float32 [bodies]: before the apple is drawn; 0 on a full board."""

    def cost(self, body: tuple[Cell, ...], apple: Cell, there: Cell) -> float:
        """Return the expected steps after the head has moved from `body` to `there`."""
        moved = (there, *body) if there == apple else (there, *body[:-1])
        cells = np.array([[self.board.index(cell) for cell in moved]])
        codes, turns = self.board.canonical(cells)
        place = int(np.searchsorted(self.codes[len(moved) - 1], codes[0]))
        if there == apple:
            return float(self.mean_steps[len(moved) - 1][place])
        return float(self.steps[len(moved) - 1][place, self.board.turned[turns[0], self.board.index(apple)]])

    def expected_steps(self, start: Cell) -> float:
        """Return the expected steps of a game that begins with length 1 on this cell."""
        codes, _ = self.board.canonical(np.array([[self.board.index(start)]]))
        return float(self.mean_steps[0][np.searchsorted(self.codes[0], codes[0])])


class _Board:
    """Cells by number, x * height + y, and the symmetries of the board."""

    def __init__(self, width: int, height: int) -> None:
        self.height, self.num_cells = height, width * height
        numbers = np.arange(width * height).reshape(width, height)
        kinds = [numbers, numbers[::-1], numbers[:, ::-1], numbers[::-1, ::-1]]
        if width == height:
            kinds += [kind.T for kind in kinds]
        self.turned = np.stack([kind.ravel() for kind in kinds])
        """int64 [symmetries, cells]: where each takes a cell."""
        padded = np.pad(numbers, 1, constant_values=-1)
        self.reached = np.stack([padded[1:-1, 2:], padded[1:-1, :-2], padded[:-2, 1:-1], padded[2:, 1:-1]]).reshape(
            4, -1
        )
        """int64 [4, cells]: the neighbour in each direction, -1 behind a wall."""
        # Of two neighbours, the direction from one to the other.
        self._direction = np.zeros((self.num_cells, self.num_cells), dtype=np.int64)
        for direction, cells in enumerate(self.reached):
            inside = cells >= 0
            self._direction[np.flatnonzero(inside), cells[inside]] = direction

    def index(self, cell: Cell) -> int:
        return cell[0] * self.height + cell[1]

    def canonical(self, bodies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return of bodies [B, length] the lowest code of their symmetric ones, and the symmetry that gives it."""
        codes = self._code(self.turned[:, bodies])
        turns = codes.argmin(axis=0)
        return codes[turns, np.arange(len(bodies))], turns

    def _code(self, bodies: np.ndarray) -> np.ndarray:
        """Return numbers that only these bodies [..., length] of their length have: the head, two bits a direction."""
        codes = bodies[..., 0].astype(np.int64)
        directions = self._direction[bodies[..., :-1], bodies[..., 1:]]
        for place in range(directions.shape[-1]):
            codes = codes << 2 | directions[..., place]
        return codes


def solve(width: int, height: int, *, shows_progress: bool = False) -> Solution:
    """Return the exact values of a board of at most 25 cells: a code has 64 bits."""
    from tqdm import tqdm

    board = _Board(width, height)
    bodies = _all_bodies(board)
    codes = [board.canonical(each)[0] for each in bodies]
    steps = [np.empty((0, 0), dtype=np.float32) for _ in bodies]
    mean_steps = [np.zeros(len(each), dtype=np.float32) for each in bodies]
    steps[-1] = np.full((len(bodies[-1]), board.num_cells), np.inf, dtype=np.float32)
    rest = np.zeros(len(bodies[-1]))
    lengths = range(board.num_cells - 1, 0, -1)
    for length in tqdm(lengths, f"solving {width} x {height}", unit="length", disable=not shows_progress):
        values, rest = _values(board, bodies[length - 1], codes[length - 1], codes[length], rest)
        steps[length - 1], mean_steps[length - 1] = values.astype(np.float32), rest.astype(np.float32)
    return Solution(board, codes, steps, mean_steps)


def _all_bodies(board: _Board) -> list[np.ndarray]:
    """Return of each length, from 1, one body of each class, int8 [bodies, length], sorted by code."""
    found = [np.arange(board.num_cells, dtype=np.int8)[:, None]]
    found[0] = _unique(board, found[0])
    while found[-1].shape[1] < board.num_cells:
        shorter, longer = found[-1], []
        for reached in board.reached:
            there = reached[shorter[:, 0]]
            is_free = (there >= 0) & ~(shorter == there[:, None]).any(axis=1)
            longer.append(np.column_stack([there[is_free].astype(np.int8), shorter[is_free]]))
        found.append(_unique(board, np.concatenate(longer)))
    return found


def _unique(board: _Board, bodies: np.ndarray) -> np.ndarray:
    """Return one body of each class, the one with the lowest code, sorted by it."""
    codes, turns = board.canonical(bodies)
    _, first = np.unique(codes, return_index=True)
    return np.stack([board.turned[turns[i], bodies[i]] for i in first]).astype(np.int8)


def _values(
    board: _Board, bodies: np.ndarray, codes: np.ndarray, longer_codes: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return of bodies of one length the expected steps by apple [bodies, cells], and their means.

    `rest`: the means of the bodies that are one cell longer, whose codes are `longer_codes`.
    """
    number, length = bodies.shape
    rows = np.arange(number)
    is_free = np.ones((number, board.num_cells), dtype=bool)
    is_free[rows[:, None], bodies] = False
    values = np.full((number, board.num_cells), np.inf)
    moves = []
    for reached in board.reached:
        there = reached[bodies[:, 0]]
        inside = there >= 0
        eats = rows[inside & is_free[rows, there]]
        grown = np.column_stack([there[eats], bodies[eats]])
        values[eats, there[eats]] = 1 + rest[np.searchsorted(longer_codes, board.canonical(grown)[0])]
        bites = (bodies[:, : max(0, length - 1)] == there[:, None]).any(axis=1)
        if length == 2:  # its tail is its neck
            bites |= bodies[:, 1] == there
        goes = rows[inside & ~bites]
        moved_codes, turns = board.canonical(np.column_stack([there[goes], bodies[goes, :-1]]))
        source = np.searchsorted(codes, moved_codes)[:, None] * board.num_cells + board.turned[turns]
        can_pass = is_free[goes].copy()
        can_pass[np.arange(len(goes)), there[goes]] = False  # an apple there is eaten
        moves.append((goes, source, can_pass))
    # Shortest paths by relaxing all moves until nothing changes.
    is_changed = True
    while is_changed:
        is_changed = False
        for goes, source, can_pass in moves:
            through = np.where(can_pass, 1 + values.ravel()[source], np.inf)
            better = through < values[goes]
            if better.any():
                is_changed = True
                values[goes] = np.minimum(values[goes], through)
    num_free = is_free.sum(axis=1)
    return values, np.where(is_free, values, 0.0).sum(axis=1) / num_free


@lru_cache(maxsize=len(SOLVED_SIZES))
def solution_of(grid_size: int) -> Solution:
    """Return the solution of a board from this user's cache; the first process that asks computes it."""
    from filelock import FileLock

    path = user_cache() / "optimal" / f"{grid_size}x{grid_size}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write(path, solve(grid_size, grid_size, shows_progress=True))
    with np.load(path) as arrays:
        parts = [[arrays[f"{part}_{i}"] for i in range(grid_size**2)] for part in ("codes", "steps", "mean_steps")]
    return Solution(_Board(grid_size, grid_size), *parts)


def _write(path: Path, solution: Solution) -> None:
    """Write the cache file whole or not at all."""
    lists = {"codes": solution.codes, "steps": solution.steps, "mean_steps": solution.mean_steps}
    arrays: dict[str, Any] = {
        f"{part}_{i}": each for part, all_lengths in lists.items() for i, each in enumerate(all_lengths)
    }
    aside = path.with_suffix(".partial.npz")
    with naming_errors(path):
        np.savez(aside, **arrays)
    aside.replace(path)
