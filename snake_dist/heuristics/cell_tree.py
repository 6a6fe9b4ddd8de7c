"""Cell tree: the shortest way to the apple on one-way roads around a tree of 2 x 2 cells, which never loses.

The snake drives on the right: it goes up where x is odd, down where x is even, to the right where y is even, to the
left where y is odd. So from any place there are at most two moves, on within its cell of 2 x 2 or out of it. The cells
that the body links form a tree with the tail's at its root. The head enters only its own cell, that cell's parent and
cells without body. So the way around the tree, back to the tail, is open at any time, and the board fills.

Of these ways the snake takes the shortest one to the apple; of several, the one after which the fewest places could no
longer be reached. Where there are such places, it heads for the nearest of them first. All searches know the time: a
place that the tail has left by then is free.

The rules are van Laarhoven's (2020), whose programs look at the body as it lies now (`docs/heuristics.md` compares).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise

from snake_dist.errors import InputError
from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import fatal_reason

Roads = dict[Cell, tuple[tuple[Move, Cell], ...]]

MAX_WAYS_TRIED = 8
"""Shortest ways to the apple that are compared. With one, 10x10 takes 1,004 steps instead of 1,001; asked before every
fourth move alone (`styles.ways`) 1,016 instead of 1,009; with 20 as many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the snake does next."""

    way: tuple[Cell, ...]
    """The places on the way to the goal; the head's is left out."""
    ways: dict[Cell, Cell]
    """Place -> one before it, for all places on shortest ways to the goal, nearest first; for those of `way` the one
    before it there."""

    @property
    def goal(self) -> Cell:
        """The place that it heads for: the apple, or one that it would cut off, or the farthest."""
        return self.way[-1]


def cell_tree_move(state: State) -> Move | None:
    """Return the next move; None if the body lies against the roads or its cells form no tree.

    Raises InputError unless `is_cellular` the board.
    """
    check_is_cellular(state.grid_size, state.mode)
    plan = cell_tree_plan(state)
    return next((move for move, there in _roads_of(state.grid_size)[state.head] if plan and there == plan.way[0]), None)


def cell_tree_goal(state: State) -> Cell | None:
    """Return the place that it heads for; None where there is no `cell_tree_plan`."""
    plan = cell_tree_plan(state)
    return None if plan is None else plan.goal


def steps_by_road(state: State, goal: Cell) -> dict[Move, tuple[Cell, int | None]]:
    """Return open road -> (the place it leads to, steps to the goal on it, None if there is no such way).

    Two roads at most; none for a snake that does not keep to the rules.
    """
    if not is_cellular(state.grid_size, state.mode):
        return {}
    parents, head = _tree_of(state.body, state.grid_size), state.head
    cells = _cells_of(state.grid_size)
    if not _keeps_to_rules(state, parents):
        return {}
    return {
        move: (there, _reach(state, state.body, parents, first=there)[0].get(goal))
        for move, there in _roads_of(state.grid_size)[head]
        if fatal_reason(state, move) is None and _may_enter(parents, cells[head], cells[there])
    }


@lru_cache(maxsize=256)
def cell_tree_plan(state: State) -> Plan | None:
    """Return the plan; None for a snake that does not keep to the rules, and where the board is not `is_cellular`."""
    parents = _tree_of(state.body, state.grid_size)
    if not is_cellular(state.grid_size, state.mode) or not _keeps_to_rules(state, parents):
        return None
    steps, before = _reach(state, state.body, parents)
    if state.apple in steps:
        ways = islice(_shortest_ways(before, state.apple), MAX_WAYS_TRIED)
        cut_off, way = min(((_cut_off(state, steps, way), way) for way in ways), key=lambda tried: len(tried[0]))
        if cut_off:
            way = next(_shortest_ways(before, cut_off[0]))
    else:  # the longest way there is, until the tail has made room
        way = next(_shortest_ways(before, next(reversed(steps))))
    return plan_of(state.head, way, before)


def plan_of(head: Cell, way: tuple[Cell, ...], before: dict[Cell, list[Cell]]) -> Plan:
    """Return the plan to take this way; `before` gives for each place those before it on the shortest ways."""
    places = [way[-1]]
    for place in places:  # grows meanwhile
        places += [there for there in before[place] if there != head and there not in places]
    ways = {place: before[place][0] for place in reversed(places)}
    return Plan(way, ways | dict(pairwise(reversed((head, *way)))))


def _cut_off(state: State, steps: dict[Cell, int], way: tuple[Cell, ...]) -> list[Cell]:
    """Return the places within reach now, but not from the end of this way to the apple, nearest first."""
    body = (*way[::-1], *state.body)[: len(state.body) + 1]
    later, _ = _reach(state, body, _tree_of(body, state.grid_size))
    return [place for place in steps if place not in later and place not in body]


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
    board, cells = State(grid_size, "classic", (), None, frozenset(), rng=0), _cells_of(grid_size)
    roads = {}
    for cell in board.free_cells():
        moves = (Move.UP if cell[0] % 2 else Move.DOWN, Move.LEFT if cell[1] % 2 else Move.RIGHT)
        led = ((move, destination(board, cell, move)) for move in moves)
        inside = [(move, there) for move, there in led if there is not None]
        roads[cell] = tuple(sorted(inside, key=lambda way: cells[way[1]] == cells[cell]))
    return roads


@lru_cache(maxsize=32)
def _cells_of(grid_size: int) -> dict[Cell, Cell]:
    """Return place -> its cell of 2 x 2."""
    return {(x, y): (x // 2, y // 2) for x in range(grid_size) for y in range(grid_size)}


def _keeps_to_rules(state: State, parents: dict[Cell, Cell]) -> bool:
    """Return whether the body lies along the roads and entered only its own cell, its parent or one without body."""
    roads, cells = _roads_of(state.grid_size), _cells_of(state.grid_size)
    for place, there in pairwise(state.body[::-1]):
        own, entered = cells[place], cells[there]
        if all(there != led for _, led in roads[place]):
            return False
        if entered != own and parents[entered] != own and parents[own] != entered:
            return False
    return True


def _tree_of(body: tuple[Cell, ...], grid_size: int) -> dict[Cell, Cell]:
    """Return each cell of a body that keeps to the rules -> the cell from which it was entered; the root -> itself."""
    cells = _cells_of(grid_size)
    parents: dict[Cell, Cell] = {}
    before = cells[body[-1]]
    for place in reversed(body):
        own = cells[place]
        if own not in parents:
            parents[own] = before
        before = own
    return parents


def _reach(
    state: State, body: tuple[Cell, ...], parents: dict[Cell, Cell], *, first: Cell | None = None
) -> tuple[dict[Cell, int], dict[Cell, list[Cell]]]:
    """Return (place -> steps to it, nearest first, the head left out; place -> those before it on the shortest ways).

    With `first`, every way begins with that place.
    """
    roads, cells = _roads_of(state.grid_size), _cells_of(state.grid_size)
    free_at = {place: arrival for arrival, place in enumerate(reversed(body), start=1)}
    steps: dict[Cell, int] = {body[0]: 0}
    before: dict[Cell, list[Cell]] = {}
    waiting = [body[0]]
    for place in waiting:  # grows meanwhile
        arrival, own = steps[place] + 1, cells[place]
        for _, there in roads[place]:
            if free_at.get(there, 0) > arrival or (arrival == 1 and first not in (None, there)):
                continue
            if steps.get(there, arrival) == arrival and _may_enter(parents, own, cells[there]):
                if there not in steps:
                    steps[there], before[there] = arrival, []
                    waiting.append(there)
                before[there].append(place)
    del steps[body[0]]
    return steps, before


def _may_enter(parents: dict[Cell, Cell], own: Cell, entered: Cell) -> bool:
    """Return whether the head may go from its cell to this one: its own, one without body, or its own's parent."""
    return entered == own or entered not in parents or parents.get(own) == entered


def _shortest_ways(before: dict[Cell, list[Cell]], goal: Cell) -> Iterator[tuple[Cell, ...]]:
    """Yield the places on each shortest way to the goal, the head's left out."""
    if goal not in before:
        yield ()
    for place in before.get(goal, ()):
        for way in _shortest_ways(before, place):
            yield (*way, goal)
