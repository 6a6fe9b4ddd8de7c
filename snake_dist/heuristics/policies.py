"""Policies: pure functions from a running game's state to a legal move."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal

from snake_dist.errors import InputError
from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import legal_moves, random_below
from snake_dist.heuristics.cell_tree import cell_tree_move, check_is_cellular, is_cellular
from snake_dist.heuristics.hamiltonian import hamiltonian_move, shortcut_move
from snake_dist.heuristics.optimal import check_is_solved, is_solved, optimal_move
from snake_dist.heuristics.search import apple_distance, safe_first_moves, shortest_path, tail_distances

_MASK64 = (1 << 64) - 1
_RANDOM_LEGAL_STREAM = 0x5851F42D4C957F2D  # keeps these draws apart from the apples'
_STEP_STRIDE = 0xD1342543DE82EF95  # the generator's state only moves on with an apple, so the step is mixed in


def random_legal(state: State) -> Move:
    """Return a uniformly drawn legal move; the draw is a function of the state."""
    moves = legal_moves(state)
    _, index = random_below(state.rng ^ _RANDOM_LEGAL_STREAM ^ (state.steps * _STEP_STRIDE & _MASK64), len(moves))
    return moves[index]


def greedy(state: State) -> Move:
    """Return the legal move that ends nearest to the apple on the empty board."""
    return min(legal_moves(state), key=lambda move: apple_distance(state, _after(state, move)))


def bfs(state: State) -> Move:
    """Return the first step of a shortest path to the apple that keeps off body and tail; with none, random-legal."""
    path = shortest_path(state)
    return path[0] if path else random_legal(state)


def bfs_safe(state: State) -> Move:
    """Return the first step of a shortest path to the apple after which the snake is tail-safe.

    With none, the move that leaves the longest way to the tail, and of those the one farthest from the apple.
    If every move cuts off the tail, it moves as bfs does.
    """
    first = next(safe_first_moves(state), None)
    if first is not None:
        return first
    chase = tail_distances(state)
    if not chase:
        return bfs(state)
    return max(chase, key=lambda move: (chase[move], apple_distance(state, _after(state, move))))


def dfs(state: State) -> Move:
    """Return the first step of the path that depth-first search finds, nearer cells first; with none, random-legal.

    Like bfs it keeps off body and tail.
    """
    unseen = set(state.free_cells())
    stack: list[tuple[Cell, Move | None]] = [(state.head, None)]
    while stack:
        cell, first = stack.pop()
        if cell == state.apple and first is not None:
            return first
        unseen.discard(cell)
        reached = [(there, first or move) for move, there in state.neighbors[cell] if there in unseen]
        stack.extend(sorted(reached, key=lambda item: -apple_distance(state, item[0])))
    return random_legal(state)


def astar(state: State) -> Move:
    """Return the first step of the shortest path that A* finds; with none, random-legal.

    Like bfs it keeps off body and tail. The bound is the distance on the empty board; of equal sums the cell
    farther along goes first.
    """
    free = set(state.free_cells())
    queue: list[tuple[int, int, Cell, Move | None]] = [(0, 0, state.head, None)]
    best = {state.head: 0}
    while queue:
        _, minus_walked, cell, first = heappop(queue)
        if cell == state.apple and first is not None:
            return first
        walked = 1 - minus_walked
        for move, there in state.neighbors[cell]:
            if there in free and walked < best.get(there, walked + 1):
                best[there] = walked
                heappush(queue, (walked + apple_distance(state, there), -walked, there, first or move))
    return random_legal(state)


def hamiltonian(state: State) -> Move:
    """Return the move to the next cell of a Hamiltonian cycle; without one, or off it, that of bfs-safe."""
    return hamiltonian_move(state) or bfs_safe(state)


def hamiltonian_shortcuts(state: State) -> Move:
    """Return hamiltonian's move, or one that leaves out cells of the cycle without passing the apple or the tail."""
    return shortcut_move(state) or bfs_safe(state)


def cell_tree(state: State) -> Move:
    """Return the move of the cell tree's shortest way; for a snake that does not keep its rules, that of bfs-safe."""
    return cell_tree_move(state) or bfs_safe(state)


POLICIES: dict[str, Callable[[State], Move]] = {
    "random-legal": random_legal,
    "greedy": greedy,
    "bfs": bfs,
    "bfs-safe": bfs_safe,
    "dfs": dfs,
    "astar": astar,
    "hamiltonian": hamiltonian,
    "hamiltonian-shortcuts": hamiltonian_shortcuts,
    "optimal": optimal_move,
    "cell-tree": cell_tree,
}
_BOARDS = {"optimal": (is_solved, check_is_solved), "cell-tree": (is_cellular, check_is_cellular)}
"""Policies of some boards alone: whether it is one, and the check."""
if TYPE_CHECKING:
    PolicyName = str
else:  # flags list their choices by it
    PolicyName = Literal[tuple(POLICIES)]


def check_policy(name: str) -> None:
    """Raise InputError unless `name` is a policy."""
    if name not in POLICIES:
        raise InputError(f"unknown policy {name!r}: choose from {', '.join(POLICIES)}")


def plays_on(name: str, grid_size: int, mode: str) -> bool:
    """Return whether the policy knows a move on every position of such boards."""
    return _BOARDS[name][0](grid_size, mode) if name in _BOARDS else True


def check_plays_on(name: str, grid_size: int, mode: str) -> None:
    """Raise InputError unless the policy knows a move on every position of such boards."""
    if name in _BOARDS:
        _BOARDS[name][1](grid_size, mode)


def _after(state: State, move: Move) -> Cell:
    there = destination(state, state.head, move)
    assert there is not None
    return there
