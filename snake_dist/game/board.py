"""Cells, moves, end reasons, and `State`, one immutable position.

(0, 0) is the bottom-left cell; UP is y + 1. A `State` holds everything a game needs to continue, its random
number generator included, so a state can be stored, compared, replayed and stepped in any process.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

Cell = tuple[int, int]

MODES = ("classic", "wrap", "obstacles")
if TYPE_CHECKING:
    ModeName = str
    ModeOrAuto = str
else:  # flags list their choices by these
    ModeName = Literal[MODES]
    ModeOrAuto = Literal["auto", ModeName]
MIN_GRID_SIZE, MAX_GRID_SIZE = 4, 50


class Move(str, Enum):
    UP = "UP"
    DOWN = "DOWN"
    LEFT = "LEFT"
    RIGHT = "RIGHT"

    @property
    def delta(self) -> Cell:
        """Return (dx, dy) of this move."""
        return _DELTAS[self]


_DELTAS = {Move.UP: (0, 1), Move.DOWN: (0, -1), Move.LEFT: (-1, 0), Move.RIGHT: (1, 0)}


class End(str, Enum):
    """Reason for which a game ended. Every finished game has exactly one: counts over reasons sum to all games."""

    WALL = "wall"  # left the board, or hit an obstacle
    SELF = "self"  # hit the own body
    REVERSAL = "reversal"  # moved back onto the neck
    TRAPPED = "trapped"  # no legal move was left
    STARVED = "starved"  # 4 N^2 steps without an apple
    INVALID_REPLY = "invalid_reply"  # the player's reply named no move
    STEP_CAP = "step_cap"  # stopped from outside, still alive
    BOARD_FULL = "board_full"  # no free cell for an apple: the game is won


@dataclass(frozen=True, slots=True)
class State:
    """One position of one game."""

    grid_size: int
    """N: the board has N x N cells."""
    mode: str
    """One of `MODES`."""
    body: tuple[Cell, ...]
    """The snake's cells, head first, tail last."""
    apple: Cell | None
    """None only when the board is full."""
    obstacles: frozenset[Cell]
    """Blocked cells; empty unless the mode is "obstacles"."""
    rng: int
    """State of the 64-bit generator that places apples."""
    score: int = 0
    """Apples eaten."""
    steps: int = 0
    """Moves made."""
    steps_since_apple: int = 0
    """Moves made since the last apple, or since the start."""
    end: End | None = None
    """None while the game runs."""

    @property
    def head(self) -> Cell:
        return self.body[0]

    @property
    def neighbors(self) -> dict[Cell, tuple[tuple[Move, Cell], ...]]:
        """Return cell -> ((move, cell it leads to), ...), walls and obstacles left out, in the order of `Move`."""
        return _neighbors(self.grid_size, self.mode, self.obstacles)

    def free_cells(self) -> list[Cell]:
        """Return the cells without snake or obstacle (the apple's cell counts as free), sorted by (x, y)."""
        taken = self.obstacles.union(self.body)
        n = self.grid_size
        return [(x, y) for x in range(n) for y in range(n) if (x, y) not in taken]


def destination(state: State, cell: Cell, move: Move) -> Cell | None:
    """Return the cell that `move` leads to from `cell`, or None at a wall or an obstacle."""
    dx, dy = move.delta
    x, y, n = cell[0] + dx, cell[1] + dy, state.grid_size
    if state.mode == "wrap":
        x, y = x % n, y % n
    elif not (0 <= x < n and 0 <= y < n):
        return None
    return None if (x, y) in state.obstacles else (x, y)


@lru_cache(maxsize=64)
def _neighbors(grid_size: int, mode: str, obstacles: frozenset[Cell]) -> dict[Cell, tuple[tuple[Move, Cell], ...]]:
    empty = State(grid_size, mode, body=(), apple=None, obstacles=obstacles, rng=0)
    table = {}
    for cell in empty.free_cells():
        reached = ((move, destination(empty, cell, move)) for move in Move)
        table[cell] = tuple((move, there) for move, there in reached if there is not None)
    return table
