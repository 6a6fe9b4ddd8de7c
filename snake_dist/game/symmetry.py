"""The 8 symmetries of the square, applied to a whole position. Index 0 changes nothing.

An index is three bits: 1 mirrors x, 2 mirrors y, 4 then swaps x and y. The rules treat all directions alike,
so a move that is legal, fatal or on a shortest path stays so in the transformed position. Only the centre
start cell of an even board is not mapped onto itself; no rule depends on it after the start.
"""

from __future__ import annotations

from dataclasses import replace

from snake_dist.game.board import Cell, Move, State

NUM_SYMMETRIES = 8


def transform_cell(cell: Cell, grid_size: int, symmetry: int) -> Cell:
    x, y = cell
    if symmetry & 1:
        x = grid_size - 1 - x
    if symmetry & 2:
        y = grid_size - 1 - y
    return (y, x) if symmetry & 4 else (x, y)


def inverse(symmetry: int) -> int:
    """Return the symmetry that undoes `symmetry`: itself, but for the two quarter turns, which undo each other."""
    return {5: 6, 6: 5}.get(symmetry, symmetry)


def transform_move(move: Move, symmetry: int) -> Move:
    dx, dy = move.delta
    if symmetry & 1:
        dx = -dx
    if symmetry & 2:
        dy = -dy
    if symmetry & 4:
        dx, dy = dy, dx
    return next(candidate for candidate in Move if candidate.delta == (dx, dy))


def lowest_turn(state: State) -> int:
    """Return the symmetry that takes body and apple to the cells that sort first; the first of several.

    Symmetric positions have the same transformed cells, so a choice that depends on these alone treats them alike.
    """

    def turned(symmetry: int) -> list[Cell]:
        cells = state.body if state.apple is None else (*state.body, state.apple)
        return [transform_cell(cell, state.grid_size, symmetry) for cell in cells]

    return min(range(NUM_SYMMETRIES), key=turned)


def transform_state(state: State, symmetry: int) -> State:
    """Return the same position, turned or mirrored. The apple generator is left as it is: later apples differ."""
    n = state.grid_size
    return replace(
        state,
        body=tuple(transform_cell(cell, n, symmetry) for cell in state.body),
        apple=None if state.apple is None else transform_cell(state.apple, n, symmetry),
        obstacles=frozenset(transform_cell(cell, n, symmetry) for cell in state.obstacles),
    )
