"""The truth of stated reasoning: every claim of a reply in one of our styles, checked against the board.

The claims are those that `styles.completions` makes, with the same meaning of the words. A reply may make some of
them, all or none; text in any other form makes no claim that is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from re import Match

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import legal_moves
from snake_dist.heuristics.hamiltonian import CycleView, cycle_slots, view_cycle
from snake_dist.heuristics.policies import apple_distance
from snake_dist.heuristics.search import tail_distances
from snake_dist.styles.completions import (
    apple_offset,
    apple_sides,
    dangers,
    free_run,
    shortest_first_moves,
    what_is_there,
)
from snake_dist.styles.prompts import format_cell, parse_reply


@dataclass(frozen=True, slots=True)
class Claim:
    """`reply[start:end]` says something about the board."""

    start: int
    end: int
    true: bool


def check_claims(state: State, reply: str) -> tuple[Claim, ...]:
    """The claims of a reply about `state`, in the order of the text. `state` is a running game's."""
    found = [*_compact_claims(state, reply), *_cycle_claims(state, reply), *_path_claims(state, reply)]
    for pattern, is_true in _SPELLED_OUT:
        found += [Claim(*match.span(), is_true(state, match, reply)) for match in pattern.finditer(reply)]
    for pattern, key_value, facts_of in _TABLES:
        for table in pattern.finditer(reply):
            facts = facts_of(state)
            for entry in key_value.finditer(reply, *table.span(1)):
                found.append(Claim(*entry.span(), facts.get(entry[1].lower()) == int(entry[2])))
    return tuple(sorted(found, key=lambda claim: claim.start))


_BY_LETTER = {move.value[0]: move for move in Move}
_CELL = re.compile(r"(?<!\S)([UDLR])(?=\d| [a-z])(\d*(?: (?:wall|block|apple|neck|tail|body))?)(?=[ .]|$)")
_OK = re.compile(r"(?<!\S)ok((?: [UDLR])*)(?=\.|$)")
_APPLE = re.compile(r"(?<!\S)apple (\d+ [LR-]) (\d+ [UD-])(?=\.|$)")


def _compact_claims(state: State, reply: str) -> Iterator[Claim]:
    """`U37 D35 L26 R46 body. ok U D L. apple 39 R 66 -`: one claim a direction, one for ok, one for each axis."""
    if reply.startswith(_ON_CYCLE):
        return
    ok, moves = _OK.search(reply), reply.find(_MOVES)
    for match in _CELL.finditer(reply, 0, ok.start() if ok else moves if moves >= 0 else len(reply)):
        yield Claim(*match.span(), what_is_there(state, _BY_LETTER[match[1]]) == match[2])
    if ok:
        yield Claim(*ok.span(), sorted(ok[1].split()) == sorted(move.value[0] for move in legal_moves(state)))
    if apple := _APPLE.search(reply):
        for i, side in enumerate(apple_sides(state), start=1):
            yield Claim(*apple.span(i), apple[i] == side)


_MOVES = "Moves:"
_ON_CYCLE = "at "
_CHOICE = re.compile(r"(?<!\S)(?P<so>so )?(?P<move>[UDLR])(?P<to>\d+)(?=[ .]|$)")
_STEP = re.compile(r" (?P<move>[UDLR])(?P<to>\d+)")
_AT = re.compile(r"(?<!\S)(at|apple|tail|reach) (\d+)(?: (\d+))?(?=[ .]|$)")
_FOLLOW = re.compile(r"(?<!\S)follow(?=\.|$)")


def _cycle_claims(state: State, reply: str) -> Iterator[Claim]:
    """`at 23 apple 72 072 tail 21 121 reach 072. D024 R026 so R026.`: one claim each.

    A second number is the slot counted on from the head's, as are the reach and the slots of moves before `Moves:`.
    What is said of places is not true of a snake off the cycle.
    """
    if not reply.startswith(_ON_CYCLE):
        return
    view = view_cycle(state)
    _, count = cycle_slots(state.grid_size, state.mode)
    for match in _AT.finditer(reply):
        yield Claim(*match.span(), view is not None and _is_there(view, count, match))
    for match in _FOLLOW.finditer(reply):
        yield Claim(*match.span(), view is not None and view.reach is None)
    moves = reply.find(_MOVES) if _MOVES in reply else len(reply)
    yield from _cycle_walk(state, ((match, bool(match["so"])) for match in _CHOICE.finditer(reply, 0, moves)))
    yield from _cycle_walk(state, ((match, True) for match in _STEP.finditer(reply, moves)))


def _is_there(view: CycleView, count: int, match: Match[str]) -> bool:
    name, slot, counted_on = match[1], int(match[2]), match[3]
    if name == "reach":
        return counted_on is None and slot == view.reach
    expected = {"at": view.head, "apple": view.apple, "tail": view.tail}[name]
    return slot == expected % count and (counted_on is None or int(counted_on) == expected)


def _cycle_walk(state: State, told: Iterable[tuple[Match[str], bool]]) -> Iterator[Claim]:
    """Of moves whether they lead to the slots named, from where the last one led that is said to be taken."""
    slots, count = cycle_slots(state.grid_size, state.mode)
    here: Cell | None = state.head if slots else None
    slot = slots.get(state.head, 0)
    for match, is_taken in told:
        there = None if here is None else destination(state, here, _BY_LETTER[match["move"]])
        to = slot if there is None else slot + (slots[there] - slot) % count
        expected = to if match.re is _CHOICE else to % count
        yield Claim(*match.span(), there is not None and int(match["to"]) == expected)
        if is_taken:
            here, slot = there, to


def _path_claims(state: State, reply: str) -> Iterator[Claim]:
    """`Moves: R58 U73`: the cell that each move leads to."""
    if reply.startswith(_ON_CYCLE):
        return
    here: Cell | None = state.head
    for match in _STEP.finditer(reply, reply.find(_MOVES) if _MOVES in reply else len(reply)):
        here = None if here is None else destination(state, here, _BY_LETTER[match["move"]])
        yield Claim(*match.span(), here is not None and format_cell(here, state.grid_size) == match["to"])


def _valid_moves(state: State, match: Match[str], _: str) -> bool:
    return sorted(re.findall(r"[A-Z]+", match[1])) == sorted(move.value for move in legal_moves(state))


def _distance(state: State, match: Match[str], _: str) -> bool:
    return int(match[1]) == apple_distance(state, state.head)


def _path(state: State, match: Match[str], reply: str) -> bool:
    """`Found path to apple (7 steps)` and `Not on shortest path to apple (7 steps)`: of the move of this reply."""
    first_moves, length = shortest_first_moves(state)
    return int(match[2]) == length and (parse_reply(reply) in first_moves) == (match[1] == "Found")


def _tail(state: State, _match: Match[str], reply: str) -> bool:
    return parse_reply(reply) in tail_distances(state)


_SPELLED_OUT: tuple[tuple[re.Pattern[str], Callable[[State, Match[str], str], bool]], ...] = (
    (
        re.compile(r"\bfrom \[(\d+), (\d+)\]"),
        lambda state, match, _: (int(match[1]), int(match[2])) == state.head,
    ),
    (re.compile(r"Valid moves: \[([^\]\n]*)\]"), _valid_moves),
    (re.compile(r"Manhattan distance(?: to apple)?: (\d+)"), _distance),
    (re.compile(r"^Distance: (\d+)", re.MULTILINE), _distance),
    (re.compile(r"Free cells: (\d+)"), lambda state, match, _: int(match[1]) == len(state.free_cells())),
    (re.compile(r"\b(Found|Not on shortest) path to apple \((\d+) steps\)"), _path),
    (re.compile(r"\bNo path to apple"), lambda state, _match, _: shortest_first_moves(state)[1] is None),
    (
        re.compile(r"Rationale: Shortest path to apple"),
        lambda state, _, reply: parse_reply(reply) in shortest_first_moves(state)[0],
    ),
    (re.compile(r"Rationale: Tail stays reachable"), _tail),
    (re.compile(r"Rationale: Legal move"), lambda state, _, reply: parse_reply(reply) in legal_moves(state)),
)


def _towards(state: State) -> dict[str, int]:
    dx, dy = apple_offset(state)
    return {"up": int(dy > 0), "down": int(dy < 0), "left": int(dx < 0), "right": int(dx > 0)}


def _runs(state: State) -> dict[str, int]:
    return {move.value.lower(): free_run(state, move) for move in Move}


_QUOTED = re.compile(r"'(\w+)': (\d+)")
_TABLES: tuple[tuple[re.Pattern[str], re.Pattern[str], Callable[[State], dict[str, int]]], ...] = (
    (re.compile(r"Apple direction: \{([^}\n]*)\}"), _QUOTED, _towards),
    (re.compile(r"Danger assessment: \{([^}\n]*)\}"), _QUOTED, dangers),
    (re.compile(r"Free space: \{([^}\n]*)\}"), _QUOTED, _runs),
    (re.compile(r"Free space: ((?:[A-Z]+=\d+(?:, )?)+)"), re.compile(r"([A-Z]+)=(\d+)"), _runs),
)
