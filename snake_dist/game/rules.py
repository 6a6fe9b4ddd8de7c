"""The rules: start a game, list legal moves, make one step. Pure functions of a `State`.

The snake starts with length 1 at (N // 2, N // 2). The tail's cell may be entered unless the snake eats in
that step. Moving back onto the neck is a reversal and ends the game; a snake of length 1 has no neck.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from snake_dist.errors import InputError
from snake_dist.game.board import MAX_GRID_SIZE, MIN_GRID_SIZE, MODES, Cell, End, Move, State, destination

# Published, so that anyone can check that a reported game was never trained on.
SEED_RANGES = {
    "train": range(0, 1_000_000_000),
    "dev": range(1_000_000_000, 1_100_000_000),
    "test": range(1_100_000_000, 1_200_000_000),
}
if TYPE_CHECKING:
    SeedRange = str
else:  # flags list their choices by it
    SeedRange = Literal[tuple(SEED_RANGES)]

OBSTACLE_SHARE = 0.06
"""Share of all cells that the mode "obstacles" blocks."""

_MASK64 = (1 << 64) - 1


def check_game_options(grid_size: int, mode: str) -> None:
    """Raise InputError unless a game of this size and mode exists."""
    if not MIN_GRID_SIZE <= grid_size <= MAX_GRID_SIZE:
        raise InputError(f"grid size {grid_size} is outside {MIN_GRID_SIZE} to {MAX_GRID_SIZE}")
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")


def new_game(grid_size: int, seed: int, mode: str = "classic") -> State:
    """Return the first state of the game with this seed. Raises InputError for an impossible size or mode."""
    check_game_options(grid_size, mode)
    start = (grid_size // 2, grid_size // 2)
    rng = seed & _MASK64
    obstacles: frozenset[Cell] = frozenset()
    if mode == "obstacles":
        rng, obstacles = _draw_obstacles(grid_size, start, rng)
    return _place_apple(State(grid_size, mode, body=(start,), apple=None, obstacles=obstacles, rng=rng))


def legal_moves(state: State) -> tuple[Move, ...]:
    """Return the moves that do not end the game at once by wall, body or reversal, in the order of `Move`."""
    return tuple(move for move in Move if fatal_reason(state, move) is None)


def fatal_reason(state: State, move: Move) -> End | None:
    """Return the reason for which `move` would end the game (wall, reversal, self), or None if it is legal."""
    there = destination(state, state.head, move)
    if there is None:
        return End.WALL
    if len(state.body) > 1 and there == state.body[1]:
        return End.REVERSAL
    # The tail moves away in the same step, unless the snake eats; the apple never lies on the tail.
    return End.SELF if there in state.body[:-1] else None


def step(state: State, move: Move) -> State:
    """Return the state after `move`. A fatal move leaves the snake where it is and sets `end`.

    After a legal move the game may also end as board_full, trapped (no legal move is left) or starved
    (4 N^2 steps without an apple). Raises ValueError if the game is over already.
    """
    if state.end is not None:
        raise ValueError(f"the game is over: {state.end.value}")
    fatal = fatal_reason(state, move)
    if fatal is not None:
        return replace(state, steps=state.steps + 1, end=fatal)
    there = destination(state, state.head, move)
    assert there is not None
    if there == state.apple:
        grown = replace(
            state,
            body=(there, *state.body),
            score=state.score + 1,
            steps=state.steps + 1,
            steps_since_apple=0,
        )
        moved = _place_apple(grown)
    else:
        moved = replace(
            state,
            body=(there, *state.body[:-1]),
            steps=state.steps + 1,
            steps_since_apple=state.steps_since_apple + 1,
        )
    if moved.end is None and not legal_moves(moved):
        return end_game(moved, End.TRAPPED)
    if moved.end is None and moved.steps_since_apple >= 4 * state.grid_size**2:
        return end_game(moved, End.STARVED)
    return moved


def end_game(state: State, reason: End) -> State:
    """Return the same position, ended from outside (step cap, invalid reply) for `reason`."""
    return replace(state, end=reason)


def random_below(rng: int, bound: int) -> tuple[int, int]:
    """Return (next generator state, number in [0, bound)): SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    The bias of the multiply-shift is below bound / 2^64.
    """
    rng = (rng + 0x9E3779B97F4A7C15) & _MASK64
    z = rng
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    z ^= z >> 31
    return rng, (z * bound) >> 64


def _place_apple(state: State) -> State:
    """Put the apple on a uniformly drawn free cell; with none left the game is won."""
    free = state.free_cells()
    if not free:
        return replace(state, apple=None, end=End.BOARD_FULL)
    rng, index = random_below(state.rng, len(free))
    return replace(state, apple=free[index], rng=rng)


def _draw_obstacles(grid_size: int, start: Cell, rng: int) -> tuple[int, frozenset[Cell]]:
    """Draw obstacles one by one, keeping the board open.

    A drawn cell is kept only if the start and its neighbours stay free and no single cell separates free cells
    from each other. No apple then lies in a dead end, or in a pocket that a long snake could not leave.
    """
    wanted = round(OBSTACLE_SHARE * grid_size**2)
    board = State(grid_size, "classic", body=(start,), apple=None, obstacles=frozenset(), rng=rng)
    open_to = {cell: {there for _, there in reached} for cell, reached in board.neighbors.items()}
    candidates = [cell for cell in open_to if cell != start and cell not in open_to[start]]
    obstacles: set[Cell] = set()
    while candidates and len(obstacles) < wanted:
        rng, index = random_below(rng, len(candidates))
        tried = candidates.pop(index)
        if _stays_biconnected(open_to, start, tried):
            obstacles.add(tried)
            for there in open_to.pop(tried):
                open_to[there].remove(tried)
    return rng, frozenset(obstacles)


def _stays_biconnected(open_to: dict[Cell, set[Cell]], start: Cell, closed: Cell) -> bool:
    """Return whether the board without `closed` would stay in one piece without any one more cell.

    The board itself has this property. Depth-first search with low points: Hopcroft and Tarjan, CACM 16(6), 1973.
    """
    found = {start: 0}
    low = {start: 0}
    stack = [(start, start, iter(open_to[start]))]
    while stack:
        cell, parent, reached = stack[-1]
        there = next(reached, None)
        if there is None:
            stack.pop()
            low[parent] = min(low[parent], low[cell])
            # Nothing behind the cell leads round its parent. For the start that is true of its only child.
            if low[cell] >= found[parent] and parent != start:
                return False
        elif there in found:
            low[cell] = min(low[cell], found[there]) if there != parent else low[cell]
        elif there != closed:
            if cell == start and len(found) > 1:
                return False
            found[there] = low[there] = len(found)
            stack.append((there, cell, iter(open_to[there])))
    return True
