"""Hamiltonian cycles, and what to do where there is none.

A snake that goes round a cycle through all cells never bites itself and fills the board. A cycle's cells are
numbered by *slot*, in walking order.

Even N, classic: a cycle of N^2 slots. Odd N, classic: the board's colours differ by one cell, so no cycle
exists. Instead the near-cycle of N^2 - 1 slots is used in which (0, 0) and (1, 1) share one slot: both touch
(0, 1) and (1, 0), and the snake takes whichever holds the apple or is free. That still fills the board. Wrap,
any N: each row is walked to the right and left upwards one column earlier than the row before, which closes
after N rows. Obstacles: no cycle is looked for.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

from snake_dist.game.board import Cell, Move, State
from snake_dist.game.rules import fatal_reason

TAIL_MARGIN = 3
"""Slots that a shortcut leaves between head and tail, at least 2: in a snake of length 2 the tail is the neck."""
_SHARED_SLOT = ((0, 0), (1, 1))


def hamiltonian_move(state: State) -> Move | None:
    """The move to the next slot; None without a cycle, or if the snake does not lie along it in order."""
    slots, count = cycle_slots(state.grid_size, state.mode)
    return _next_slot_move(state, slots, count) if slots and _lies_in_order(state, slots, count) else None


def shortcut_move(state: State) -> Move | None:
    """The legal move that goes farthest along the cycle, not past the apple and not near the tail; None as above.

    The body then still lies in the cycle's order, so that going on slot by slot stays possible at any time.
    Once the snake covers half the slots no shortcut is taken: it would only leave gaps to come back for. Nor is
    one taken while the apple is in the shared slot of an odd board, where the tail must not be as well.
    """
    slots, count = cycle_slots(state.grid_size, state.mode)
    if not slots or not _lies_in_order(state, slots, count):
        return None
    assert state.apple is not None
    if 2 * len(state.body) >= count or (count < len(slots) and state.apple in _SHARED_SLOT):
        return _next_slot_move(state, slots, count)
    here = slots[state.head]
    to_tail = (slots[state.body[-1]] - here) % count or count
    limit = max(1, min((slots[state.apple] - here) % count, to_tail - TAIL_MARGIN))
    ahead = {
        move: gap
        for move, there in state.neighbors[state.head]
        if (gap := (slots[there] - here) % count) <= limit and fatal_reason(state, move) is None
    }
    return max(ahead, key=lambda move: ahead[move], default=None)


@lru_cache(maxsize=128)
def cycle_slots(grid_size: int, mode: str) -> tuple[dict[Cell, int], int]:
    """(cell -> its slot, number of slots); no cells and 0 slots in mode "obstacles"."""
    n = grid_size
    if mode == "obstacles":
        return {}, 0
    if mode == "wrap":
        order = [((x - y) % n, y) for y in range(n) for x in range(n)]
    elif n % 2 == 0:
        order = [(x, 0) for x in range(n)]
        order += [(x, y) for x in reversed(range(n)) for y in _back_and_forth(range(1, n), (n - 1 - x) % 2)]
    else:
        order = [(x, 0) for x in range(n)]
        order += [(x, y) for x in reversed(range(2, n)) for y in _back_and_forth(range(1, n), x % 2)]
        order += [(x, y) for y in reversed(range(2, n)) for x in _back_and_forth(range(2), (y + 1) % 2)]
        order += [(0, 1)]
    slots = {cell: slot for slot, cell in enumerate(order)}
    return {(1, 1): slots[0, 0], **slots}, len(slots)


def _back_and_forth(line: range, backwards: int) -> range:
    return line[::-1] if backwards else line


def _lies_in_order(state: State, slots: dict[Cell, int], count: int) -> bool:
    """Whether the slots from tail to head rise, once around the cycle at most."""
    taken = [slots[cell] for cell in state.body]
    return sum((ahead - behind) % count for ahead, behind in pairwise(taken)) < count


def _next_slot_move(state: State, slots: dict[Cell, int], count: int) -> Move | None:
    """The legal move to the next slot, if there is one.

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
