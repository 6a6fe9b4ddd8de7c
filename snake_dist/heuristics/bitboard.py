"""Sets of cells as integers, one bit a cell, so that a flood fill costs a few operations a step.

Bit x * (N + 1) + y stands for the cell (x, y). The bit between two columns belongs to no cell: it keeps a
shift by one from running over into the next column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from snake_dist.game.board import Cell


@lru_cache(maxsize=128)
def bits(grid_size: int) -> dict[Cell, int]:
    """Return cell -> its bit, for every cell of the board."""
    n = grid_size
    return {(x, y): 1 << (x * (n + 1) + y) for x in range(n) for y in range(n)}


@lru_cache(maxsize=128)
def cells(grid_size: int) -> dict[int, Cell]:
    """Return bit -> its cell: the inverse of `bits`."""
    return {bit: cell for cell, bit in bits(grid_size).items()}


@lru_cache(maxsize=128)
def spreader(grid_size: int, wrap: bool) -> Callable[[int], int]:
    """Return the function that maps a set of cells to the cells one move away, bits of no cell included."""
    n, width = grid_size, grid_size + 1

    def spread(members: int) -> int:
        return members << 1 | members >> 1 | members << width | members >> width

    if not wrap:
        return spread
    table = bits(n)
    top, bottom = (sum(table[x, y] for x in range(n)) for y in (n - 1, 0))
    right, left = (sum(table[x, y] for y in range(n)) for x in (n - 1, 0))
    across = n - 1

    def spread_around(members: int) -> int:
        over_y = (members & top) >> across | (members & bottom) << across
        over_x = (members & right) >> across * width | (members & left) << across * width
        return spread(members) | over_y | over_x

    return spread_around


@lru_cache(maxsize=128)
def open_cells(grid_size: int, obstacles: frozenset[Cell]) -> int:
    """Return every cell that is no obstacle."""
    table = bits(grid_size)
    return sum(bit for cell, bit in table.items() if cell not in obstacles)


def as_bits(grid_size: int, members: Iterable[Cell]) -> int:
    """Return the set of these cells."""
    table, taken = bits(grid_size), 0
    for cell in members:
        taken |= table[cell]
    return taken


def as_cells(grid_size: int, members: int) -> list[Cell]:
    """Return the cells of a set, sorted by (x, y)."""
    table, found = cells(grid_size), []
    while members:
        bit = members & -members
        found.append(table[bit])
        members ^= bit
    return found
