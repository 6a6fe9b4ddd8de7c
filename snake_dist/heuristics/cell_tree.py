"""Cell tree: the shortest way to the apple on one-way roads around a tree of 2 x 2 cells, which never loses.

The snake drives on the right: it goes up where x is odd, down where x is even, to the right where y is even, to the
left where y is odd. So from any place there are at most two moves, on within its cell of 2 x 2 or out of it. The cells
that the body links form a tree with the tail's at its root. The head enters only its own cell, that cell's parent and
cells without body. So the way around the tree, back to the tail, is open at any time, and the board fills.

Of these ways the snake takes the shortest one to the apple. Where after it some place could no longer be reached, it
heads for the nearest such place first. Both searches know the time: a place that the tail has left by then is free.

The rules are van Laarhoven's (2020), whose programs look at the body as it lies now (`docs/heuristics.md` compares).
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from itertools import pairwise

from snake_dist.errors import InputError
from snake_dist.game.board import Cell, Move, State, destination

Roads = dict[Cell, tuple[tuple[Move, Cell], ...]]


def cell_tree_move(state: State) -> Move | None:
    """Return the next move; None if the body lies against the roads or its cells form no tree.

    Raises InputError unless `is_cellular` the board.
    """
    check_is_cellular(state.grid_size, state.mode)
    parents = _tree_of(state.body)
    if not _keeps_to_rules(state, parents):
        return None
    length, apple = len(state.body), state.apple
    steps, before = _reach(state, state.body, parents)
    if apple in steps:
        path = _path(before, apple)
        body = (*path[::-1], *state.body)[: length + 1]
        later, _ = _reach(state, body, _tree_of(body))
        cut_off = [cell for cell in steps if cell not in later and cell not in body]
        path = _path(before, cut_off[0]) if cut_off else path
    else:  # the longest way there is, until the tail has made room
        path = _path(before, next(reversed(steps)))
    return next((move for move, there in _roads_of(state.grid_size)[state.head] if path and there == path[0]), None)


def check_is_cellular(grid_size: int, mode: str) -> None:
    """Raise InputError unless 2 x 2 cells cover the board."""
    if not is_cellular(grid_size, mode):
        raise InputError(f"cell-tree: boards of even size in classic mode, not {grid_size} x {grid_size}, {mode}")


def is_cellular(grid_size: int, mode: str) -> bool:
    """Return whether 2 x 2 cells cover the board."""
    return grid_size % 2 == 0 and mode == "classic"


@lru_cache(maxsize=32)
def _roads_of(grid_size: int) -> Roads:
    """Return place -> the (move, place) that roads lead to, the one out of the cell first."""
    board = State(grid_size, "classic", (), None, frozenset(), rng=0)
    roads = {}
    for cell in board.free_cells():
        moves = (Move.UP if cell[0] % 2 else Move.DOWN, Move.LEFT if cell[1] % 2 else Move.RIGHT)
        led = ((move, destination(board, cell, move)) for move in moves)
        inside = [(move, there) for move, there in led if there is not None]
        roads[cell] = tuple(sorted(inside, key=lambda way: _cell(way[1]) == _cell(cell)))
    return roads


def _cell(place: Cell) -> Cell:
    return place[0] // 2, place[1] // 2


def _keeps_to_rules(state: State, parents: dict[Cell, Cell]) -> bool:
    """Return whether the body lies along the roads and entered only its own cell, its parent or one without body."""
    roads = _roads_of(state.grid_size)
    for place, there in pairwise(state.body[::-1]):
        own, entered = _cell(place), _cell(there)
        if there not in [led for _, led in roads[place]]:
            return False
        if entered != own and parents[entered] != own and parents[own] != entered:
            return False
    return True


def _tree_of(body: tuple[Cell, ...]) -> dict[Cell, Cell]:
    """Return each cell of a body that keeps to the rules -> the cell from which it was entered; the root -> itself."""
    parents: dict[Cell, Cell] = {}
    own = _cell(body[-1])
    for place in reversed(body):
        parents.setdefault(_cell(place), own)
        own = _cell(place)
    return parents


def _reach(state: State, body: tuple[Cell, ...], parents: dict[Cell, Cell]) -> tuple[dict[Cell, int], dict[Cell, Cell]]:
    """Return (place -> steps to it, nearest first, the head left out; place -> the one before it on that way)."""
    roads = _roads_of(state.grid_size)
    free_at = {place: len(body) - i for i, place in enumerate(body)}
    steps, before = {body[0]: 0}, {}
    waiting = deque([body[0]])
    while waiting:
        place = waiting.popleft()
        arrival, own = steps[place] + 1, _cell(place)
        for _, there in roads[place]:
            entered = _cell(there)
            if there in steps or free_at.get(there, 0) > arrival:
                continue
            if entered == own or entered not in parents or parents.get(own) == entered:
                steps[there], before[there] = arrival, place
                waiting.append(there)
    del steps[body[0]]
    return steps, before


def _path(before: dict[Cell, Cell], goal: Cell) -> list[Cell]:
    """Return the places on the way to the goal, the head's left out."""
    path = []
    while goal in before:
        path.append(goal)
        goal = before[goal]
    return path[::-1]
