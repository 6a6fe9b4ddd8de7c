"""Style cycle: the slots of head, apple and tail on the Hamiltonian cycle, and shortcuts along it.

The prompt is `head 36 apple 96 tail 66 length 4`, with size and mode in front as in `styles.compact`: the body between
head and tail is unknown to the reader.

The completion says the slots (`heuristics.hamiltonian`) of head, apple and tail. With shortcuts: those of apple and
tail once more, counted on from the head's, as all that follow are; the last slot that shortcuts may lead to; for each
of up to `MAX_SHORTCUTS` moves where moves lead, nearest first and up to the first beyond reach, and which is taken: the
farthest within. Without: `follow`, and up to `MAX_MOVES` moves and their slots:
`at 23 apple 72 072 tail 21 121 reach 072. D024 R026 L116 so R026. ... Moves: R R`
`at 98 apple 19 tail 41 follow. Moves: U99 U00 U01`

Style look-cycle shows the whole body, in the prompt of `styles.compact`, and says what lies around the head before it
plans: `U35 apple D33 L24 R44. ok U D L R. at 25 ...`. To a snake off the cycle it teaches what compact does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from re import Match

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.heuristics.hamiltonian import CycleView, cycle_slots, shortcut_move, shortcut_path, view_cycle
from snake_dist.styles.compact import (
    BY_LETTER,
    MAX_MOVES,
    MOVES,
    PLAN,
    PROMPT_START,
    STEP,
    around_head,
    body_prompt,
    compact_completion,
    read_body_prompt,
    read_start,
    render_cell,
    render_start,
)
from snake_dist.styles.style import Claim, Shown, Style

MAX_SHORTCUTS = 4
"""Moves that a line teaches where they are shortcuts, at most: the tail moves on meanwhile, and opens shorter ones."""


# Prompts


def _prompt(state: State, apple: Cell) -> str:
    tail = render_cell(state.body[-1], state.grid_size)
    return f"{render_start(state, apple)} tail {tail} length {len(state.body)}"


_PROMPT = re.compile(PROMPT_START + r"tail \d+ length (?P<length>\d{1,4})\Z")


def _read_prompt(prompt: str) -> Shown | None:
    match = _PROMPT.match(prompt)
    return match and read_start(match, int(match["length"]))


# Completions


def _completion(state: State, move: Move, _policy: str) -> str:
    """Raise ValueError where `move` is not the next of `shortcut_path`."""
    view = view_cycle(state)
    path = list(islice(shortcut_path(state), MAX_MOVES if view is None or view.reach is None else MAX_SHORTCUTS))
    if view is None or not path or path[0][0] is not move:
        raise ValueError(f"{move.value} does not follow the cycle: style cycle cannot teach it")
    _, count = cycle_slots(state.grid_size, state.mode)
    own = len(str(count - 1))
    at, apple, tail = (f"{slot % count:0{own}}" for slot in (view.head, view.apple, view.tail))
    if view.reach is None:
        walked = " ".join(f"{taken.value[0]}{slot % count:0{own}}" for taken, slot in path)
        return f"at {at} apple {apple} tail {tail} follow. {MOVES} {walked}"
    slots = f"apple {apple} {_counted_on(state, view.apple)} tail {tail} {_counted_on(state, view.tail)}"
    choices = f"reach {_counted_on(state, view.reach)}. {_choices(state, view, path)}"
    return f"at {at} {slots} {choices} {MOVES} {' '.join(taken.value[0] for taken, _ in path)}"


def _look_completion(state: State, move: Move, policy: str) -> str:
    """Return what lies around the head and the plan, where `move` follows the cycle; else what compact says."""
    if shortcut_move(state) is not move:
        return compact_completion(state, move, policy)
    return f"{around_head(state)}. {_completion(state, move, policy)}"


def _counted_on(state: State, slot: int) -> str:
    """Write a slot with as many digits as any other of this board: numbers of different length are hard to compare.

    Written as short as can be, a model took 14 for within a reach of 8; with two digits at least, 110 for within 46. It
    also has to see the slots that it compares: most of its false claims were a round too few for an apple close behind
    the head, before the apple's own slot was written down.
    """
    _, count = cycle_slots(state.grid_size, state.mode)
    return str(slot).zfill(len(str(2 * count - 1)))


def _choices(state: State, view: CycleView, path: list[tuple[Move, int]]) -> str:
    """`D024 R026 L116 so R026.` for each move of the path: where moves lead, nearest first, and the one taken.

    The first slot beyond reach ends the list. Without the list the model would have to compare slots with the reach
    that it has not written down; with all four it would write a third more.
    """
    slots, count = cycle_slots(state.grid_size, state.mode)
    cell, here, reach = state.head, view.head, view.reach or 0
    sentences = []
    for taken, slot in path:
        led = sorted((here + (slots[there] - here) % count, move.value[0]) for move, there in state.neighbors[cell])
        within = sum(to <= reach for to, _ in led)
        listed = " ".join(letter + _counted_on(state, to) for to, letter in led[: within + 1])
        sentences.append(f"{listed} so {taken.value[0]}{_counted_on(state, slot)}.")
        cell, here = dict(state.neighbors[cell])[taken], slot
    return " ".join(sentences)


# Claims

_SLOTS = re.compile(r"(?<!\S)(at|apple|tail|reach) (\d+)(?: (\d+))?(?=[ .]|$)")
_FOLLOW = re.compile(r"(?<!\S)follow(?=\.|$)")
_CHOICE = re.compile(r"(?<!\S)(?P<so>so )?(?P<move>[UDLR])(?P<to>\d+)(?=[ .]|$)")


def _check_claims(state: State, reply: str) -> Iterator[Claim]:
    """Yield a claim for each of `at 23`, `apple 72 072`, `reach 072`, `D024`, `so R026`, `follow`.

    A second number is the slot counted on from the head's, as are the reach and the slots of moves before `Moves:`.
    No claim about slots is true of a snake off the cycle.
    """
    plan = PLAN.search(reply)
    if plan is None or plan[1] != "at":
        return
    view = view_cycle(state)
    _, count = cycle_slots(state.grid_size, state.mode)
    for match in _SLOTS.finditer(reply, plan.start()):
        yield Claim(*match.span(), view is not None and _is_slot(view, count, match))
    for match in _FOLLOW.finditer(reply, plan.start()):
        yield Claim(*match.span(), view is not None and view.reach is None)
    moves = reply.find(MOVES) if MOVES in reply else len(reply)
    choices = _CHOICE.finditer(reply, plan.start(), moves)
    yield from _check_walk(state, ((match, bool(match["so"])) for match in choices))
    yield from _check_walk(state, ((match, True) for match in STEP.finditer(reply, moves)))


def _is_slot(view: CycleView, count: int, match: Match[str]) -> bool:
    name, slot, counted_on = match[1], int(match[2]), match[3]
    if name == "reach":
        return counted_on is None and slot == view.reach
    expected = {"at": view.head, "apple": view.apple, "tail": view.tail}[name]
    return slot == expected % count and (counted_on is None or int(counted_on) == expected)


def _check_walk(state: State, moves: Iterable[tuple[Match[str], bool]]) -> Iterator[Claim]:
    """Yield for (move, whether it is taken) whether it leads to the slot named, from where the last taken one led."""
    slots, count = cycle_slots(state.grid_size, state.mode)
    here: Cell | None = state.head if slots else None
    slot = slots.get(state.head, 0)
    for match, is_taken in moves:
        there = None if here is None else destination(state, here, BY_LETTER[match["move"]])
        if there is None:
            yield Claim(*match.span(), False)
        else:
            to = slot + (slots[there] - slot) % count
            yield Claim(*match.span(), int(match["to"]) == (to if match.re is _CHOICE else to % count))
        if is_taken:
            here, slot = there, slot if there is None else to


_TEACHER = "hamiltonian-shortcuts"
STYLES = {
    "cycle": Style(_prompt, _read_prompt, _completion, _check_claims, _TEACHER, on_cycle=True),
    "look-cycle": Style(body_prompt, read_body_prompt, _look_completion, _check_claims, _TEACHER),
}
