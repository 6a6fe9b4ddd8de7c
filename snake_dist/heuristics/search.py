"""Search over one position: distances, shortest paths, tail safety, and the set of optimal moves.

A cell is free *now* if neither obstacle nor body is on it. The tail's cell counts as free, because the tail leaves it
in the next step: the apple never lies there, so that step does not eat. (In a snake of length 2 the tail is the neck,
and its cell is not free.) A path runs over cells that are free now; it does not wait for body to move away, so the
snake can walk it as it stands. A position is tail-safe if the head can reach the tail's cell over free cells: a snake
that can follow its own tail lives on. A tail next to the head counts as reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import fatal_reason, legal_moves
from snake_dist.heuristics.bitboard import as_bits, as_cells, bits, open_cells, spreader

MAX_PATHS_TRIED = 500
"""Shortest paths tried for each first move in search of a tail-safe one; there can be exponentially many."""


def distances(state: State, start: Cell) -> dict[Cell, int]:
    """Return the steps from `start`, occupied or not, to every cell that a path can reach; itself included (0)."""
    layers = _layers(state, bits(state.grid_size)[start], _free(state))
    return {cell: steps for steps, layer in enumerate(layers) for cell in as_cells(state.grid_size, layer)}


def apple_distance(state: State, cell: Cell) -> int:
    """Return the steps from `cell` to the apple on the empty board: Manhattan distance, over the edges in wrap mode."""
    assert state.apple is not None
    gaps = [abs(a - b) for a, b in zip(cell, state.apple, strict=True)]
    return sum(min(gap, state.grid_size - gap) if state.mode == "wrap" else gap for gap in gaps)


def apple_offset(state: State) -> Cell:
    """Return (dx, dy) from head to apple; in wrap mode the shorter way round, right or up where both are equal."""
    assert state.apple is not None
    dx, dy = state.apple[0] - state.head[0], state.apple[1] - state.head[1]
    if state.mode != "wrap":
        return dx, dy
    n = state.grid_size
    half = (n - 1) // 2
    return (dx + half) % n - half, (dy + half) % n - half


def declines_apple(state: State, move: Move) -> bool:
    """Return whether the apple lies beside the head and `move` does not take it."""
    return any(there == state.apple and taking is not move for taking, there in state.neighbors[state.head])


def is_apple_blocked(state: State) -> bool:
    """Return whether no legal move leads nearer to the apple."""
    now = apple_distance(state, state.head)
    nearer = (move for move, there in state.neighbors[state.head] if apple_distance(state, there) < now)
    return all(fatal_reason(state, move) for move in nearer)


def shortest_first_moves(state: State) -> tuple[set[Move], int | None]:
    """Return (the moves that begin a shortest path to the apple, its length); no moves and None without a path."""
    assert state.apple is not None
    to_apple = distances(state, state.apple)
    lengths = {move: 1 + to_apple[there] for move, there in state.neighbors[state.head] if there in to_apple}
    shortest = min(lengths.values(), default=None)
    return {move for move, length in lengths.items() if length == shortest}, shortest


def begins_shortest_path(state: State, move: Move) -> bool:
    """Return whether a shortest path to the apple starts with `move`."""
    return move in shortest_first_moves(state)[0]


def shortest_path(state: State) -> list[Move] | None:
    """Return a shortest path from head to apple that keeps off the tail's cell too, or None.

    It is the first one in the order of `Move`.
    """
    return next(_shortest_paths(state, _apple_layers(state, tail_free=False)), None)


def tail_distance(state: State, body: tuple[Cell, ...]) -> int | None:
    """Return the steps from head to tail for a snake that lies like `body` on this board; None without a path."""
    table = bits(state.grid_size)
    tail = table[body[-1]]
    free = open_cells(state.grid_size, state.obstacles) & ~as_bits(state.grid_size, body) | tail
    for steps, layer in enumerate(_layers(state, table[body[0]], free)):
        if layer & tail:
            return steps
    return None


def tail_distances(state: State) -> dict[Move, int]:
    """Return {legal move: steps from head to tail after it}, without moves that cut the tail off."""
    found = {}
    for move in legal_moves(state):
        there = destination(state, state.head, move)
        assert there is not None
        body = (there, *state.body) if there == state.apple else (there, *state.body[:-1])
        if (steps := tail_distance(state, body)) is not None:
            found[move] = steps
    return found


def safe_first_moves(state: State) -> Iterator[Move]:
    """Yield the moves that begin one of the `safe_paths`."""
    return (path[0] for path in safe_paths(state))


def safe_paths(state: State) -> Iterator[list[Move]]:
    """Yield for each first move, in the order of `Move`, a shortest path to the apple after which the snake is
    tail-safe, if there is one.

    For each first move up to `MAX_PATHS_TRIED` paths are simulated; a safe path beyond them goes unseen.
    """
    layers = _apple_layers(state)
    if not layers or not _may_be_safe(state, len(layers)):
        return
    for first in Move:
        paths = islice(_shortest_paths(state, layers, first), MAX_PATHS_TRIED)
        safe = (path for path in paths if tail_distance(state, body_after(state, path)) is not None)
        yield from islice(safe, 1)


def optimal_moves(state: State) -> frozenset[Move]:
    """Return the moves that shortest paths and tail safety give no reason to call worse than another.

    They are those that begin a shortest tail-safe path to the apple; if there is none, those after which the tail
    stays reachable; if there is none either, all legal moves.
    """
    return frozenset(safe_first_moves(state)) or frozenset(tail_distances(state)) or frozenset(legal_moves(state))


def body_after(state: State, path: list[Move]) -> tuple[Cell, ...]:
    """Return the snake after it has walked `path` and eaten the apple with the last step."""
    body, cell = list(state.body[: max(len(state.body) + 1 - len(path), 0)]), state.head
    walked = []
    for move in path:
        there = destination(state, cell, move)
        assert there is not None
        cell = there
        walked.append(cell)
    return tuple((walked[::-1] + body)[: len(state.body) + 1])


def _free(state: State, tail_free: bool = True) -> int:
    taken = state.body[:-1] if tail_free and len(state.body) > 2 else state.body
    return open_cells(state.grid_size, state.obstacles) & ~as_bits(state.grid_size, taken)


def _layers(state: State, start: int, free: int) -> Iterator[int]:
    """The cells 0, 1, 2, ... steps from `start`, until no new one can be reached."""
    spread = spreader(state.grid_size, state.mode == "wrap")
    layer, free = start, free & ~start
    while layer:
        yield layer
        layer = spread(layer) & free
        free ^= layer


def _apple_layers(state: State, tail_free: bool = True) -> list[int]:
    """Layer k: the cells k steps from the apple, up to the last before the head; empty if no path exists."""
    if state.apple is None:
        return []
    table = bits(state.grid_size)
    head = table[state.head]
    found: list[int] = []
    for layer in _layers(state, table[state.apple], _free(state, tail_free) | head):
        if layer & head:
            return found
        found.append(layer)
    return []


def _shortest_paths(state: State, layers: list[int], first: Move | None = None) -> Iterator[list[Move]]:
    """All shortest paths to the apple in the order of `Move`; with `first` those that begin with it."""
    table, neighbors, length = bits(state.grid_size), state.neighbors, len(layers)
    path: list[Move] = []
    stack: list[tuple[Cell, int, Move | None]] = [(state.head, 0, None)] if layers else []
    while stack:
        cell, walked, last = stack.pop()
        if last is not None:
            path[walked - 1 :] = [last]
        if walked == length:
            yield path.copy()
            continue
        for move, there in reversed(neighbors[cell]):
            if table[there] & layers[length - walked - 1] and (walked or first in (None, move)):
                stack.append((there, walked + 1, move))


def _may_be_safe(state: State, length: int) -> bool:
    """False if no path of this length is tail-safe: even without it the tail is cut off from the apple."""
    if length > len(state.body):
        return True
    assert state.apple is not None
    rest = state.body[: len(state.body) + 1 - length]
    return tail_distance(state, (state.apple, *rest)) is not None
