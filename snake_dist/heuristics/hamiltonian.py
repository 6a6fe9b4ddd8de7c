"""Hamiltonian cycles, and shortcuts along them.

A snake that goes round a cycle through all cells never bites itself and fills the board. A cycle's cells are
numbered by *slot*, in walking order.

Even N, classic: a cycle of N^2 slots, up and down pairs of columns that a bar half way up joins. Of the cycles
tried on 10x10 (rows, columns, combs, random trees) shortcuts along this one fill the board in the fewest steps.
Odd N, classic: the board's colours differ by one cell, so no cycle exists. A near-cycle of N^2 - 1 slots stands in, in
which (0, 0) and (1, 1) share one slot: both touch (0, 1) and (1, 0), and the snake takes the one that holds the apple
or is free. That still fills the board. Wrap, any N: the snake walks each row to the right and leaves it upwards one
column earlier than the row before, which closes after N rows. Obstacles: no cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import fatal_reason, step

_SHARED_SLOT = ((0, 0), (1, 1))


def hamiltonian_move(state: State) -> Move | None:
    """Return the move to the next slot; None without a cycle, or if the snake does not lie along it in order."""
    slots, count = cycle_slots(state.grid_size, state.mode)
    return _next_slot_move(state, slots, count) if slots and _lies_in_order(state, slots, count) else None


@dataclass(frozen=True, slots=True)
class CycleView:
    """Position of a snake on the cycle. Slots are counted on from the head's: from 0 again after a round."""

    head: int
    """Slot of the head, 0 to the number of slots minus 1."""
    apple: int
    """Slot of the apple, above the head's."""
    tail: int
    """Slot of the tail, above the head's; a round above it for a snake of length 1."""
    reach: int | None
    """The last slot that shortcuts may lead to: not past the apple, and before the tail. None: no shortcuts."""


def view_cycle(state: State) -> CycleView | None:
    """Return where the snake stands; None without a cycle, or if the snake does not lie along it in order.

    Once the snake covers half the slots no shortcut is taken: it would only leave gaps to come back for. Nor is
    one taken while the apple is in the shared slot of an odd board, where the tail must not be as well.
    """
    slots, count = cycle_slots(state.grid_size, state.mode)
    # A snake of length 2 lies in order either way round; backwards, its neck is in the next slot.
    if not slots or not _lies_in_order(state, slots, count) or _next_slot_move(state, slots, count) is None:
        return None
    assert state.apple is not None
    head = slots[state.head]
    apple, tail = (head + ((slots[cell] - head) % count or count) for cell in (state.apple, state.body[-1]))
    no_shortcuts = 2 * len(state.body) >= count or (count < len(slots) and state.apple in _SHARED_SLOT)
    # Two slots off for a snake of length 1: growing, it would have its neck in the next slot.
    reach = min(apple, tail - 1 - (len(state.body) == 1))
    return CycleView(head, apple, tail, None if no_shortcuts else reach)


def shortcut_path(state: State) -> Iterator[tuple[Move, int]]:
    """Yield (move, slot it leads to, counted as in `CycleView`), to the apple; nothing without a `view_cycle`.

    Each move goes as far along the cycle as `reach` allows, else to the next slot. The body then still lies in
    the cycle's order, so that going on slot by slot stays possible at any time.
    """
    view = view_cycle(state)
    slots, count = cycle_slots(state.grid_size, state.mode)
    here, now = (view.head, state) if view else (0, state)
    while view is not None and now.end is None and now.score == state.score:
        if view.reach is None:
            move = _next_slot_move(now, slots, count)
        else:
            limit = max(1, view.reach - here)
            ahead = {
                move: gap
                for move, there in now.neighbors[now.head]
                if (gap := (slots[there] - here) % count) <= limit and fatal_reason(now, move) is None
            }
            move = max(ahead, key=lambda move: ahead[move], default=None)
        there = None if move is None else destination(now, now.head, move)
        if move is None or there is None:
            return
        here += (slots[there] - here) % count
        yield move, here
        now = step(now, move)


def shortcut_move(state: State) -> Move | None:
    """Return the first move of `shortcut_path`, if any."""
    return next((move for move, _ in shortcut_path(state)), None)


@lru_cache(maxsize=128)
def cycle_slots(grid_size: int, mode: str) -> tuple[dict[Cell, int], int]:
    """Return (cell -> its slot, number of slots); no cells and 0 slots in mode "obstacles"."""
    n = grid_size
    if mode == "obstacles":
        return {}, 0
    if mode == "wrap":
        order = [((x - y) % n, y) for y in range(n) for x in range(n)]
    elif n % 2 == 0:
        order = _comb(n)
    else:
        order = [(x, 0) for x in range(n)]
        order += [(x, y) for x in reversed(range(2, n)) for y in _back_and_forth(range(1, n), x % 2)]
        order += [(x, y) for y in reversed(range(2, n)) for x in _back_and_forth(range(2), (y + 1) % 2)]
        order += [(0, 1)]
    slots = {cell: slot for slot, cell in enumerate(order)}
    return {(1, 1): slots[0, 0], **slots}, len(slots)


def _comb(n: int) -> list[Cell]:
    """Return a cycle for even N: around a tree of 2 x 2 blocks; its branches are pairs of columns, its trunk a bar."""
    bar = n // 4 * 2

    def joined(a: Cell, b: Cell) -> bool:
        (x, y), there = min(a, b), max(a, b)
        if x == there[0]:
            return y != bar or x in (0, n - 1)
        return y in (bar, bar + 1) if x % 2 else y in (0, n - 1)

    neighbors = State(n, "classic", (), None, frozenset(), rng=0).neighbors
    order = [(0, 0)]
    while len(order) < n * n:
        reached = [there for _, there in neighbors[order[-1]] if joined(order[-1], there)]
        order.append(next(there for there in reached if there not in order[-2:-1]))
    return order


def _back_and_forth(line: range, backwards: int) -> range:
    return line[::-1] if backwards else line


def _lies_in_order(state: State, slots: dict[Cell, int], count: int) -> bool:
    """Return whether the slots from tail to head rise, once around the cycle at most."""
    taken = [slots[cell] for cell in state.body]
    return sum((ahead - behind) % count for ahead, behind in pairwise(taken)) < count


def _next_slot_move(state: State, slots: dict[Cell, int], count: int) -> Move | None:
    """Return the legal move to the next slot, if any.

    In the shared slot of an odd board: onto the apple, unless the tail is there too. Head and tail would then
    share the slot, and the next slot might be taken. A round later the tail lies elsewhere.
    """
    wanted = (slots[state.head] + 1) % count
    moves = [
        (there, move)
        for move, there in state.neighbors[state.head]
        if slots[there] == wanted and fatal_reason(state, move) is None
    ]
    avoid_apple = slots[state.body[-1]] == wanted and len(state.body) < count
    return next(
        (move for there, move in moves if (there == state.apple) != avoid_apple),
        moves[0][1] if moves else None,
    )
