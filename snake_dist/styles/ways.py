"""Style ways: the program searches, the model walks the way back from the goal and sets out on it.

The prompt shows head, apple and length, then what a search found: the place that the teacher heads for, the head once
more, and every place on the shortest ways from there to the goal, each with the move into it and a place before it:
`head 55 apple 67 length 1 to 67 ways 55.56U5557U5666R56...`. It is the search of the cell tree (`heuristics.cell_tree`)
where the snake lies along its roads. Elsewhere it is that of bfs-safe: to the apple, if the tail can be reached after
it, and else to the place beside the head that bfs-safe moves to.

The completion goes back from the goal to the head, then makes the first `MOVES_AT_ONCE` moves:
`back 67R57U56U55. Moves: U56 U57 R67`. What follows a place on the way back follows it in the prompt as well. Where a
teacher moves otherwise the completion names that move alone: `Moves: R65`.

Games were lost while the model had to find the place before by itself, and to see where to stop; and at a fourth move,
which is read from the way back four places before its end. Places have a sign a coordinate on every board
(`render_place`): with four digits on 11x11 and larger, which fewer lines show, places were passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.heuristics.cell_tree import Plan, cell_tree_plan, plan_of
from snake_dist.heuristics.policies import POLICIES
from snake_dist.heuristics.search import distances, safe_paths
from snake_dist.styles.compact import MOVES, PROMPT_START, SIGNS, read_start, render_place, render_start
from snake_dist.styles.style import Claim, Shown, Style

MOVES_AT_ONCE = 3
"""The search knows more at every step: 10x10 takes 1,001 steps when it is asked before each, 1,009 before each fourth,
1,029 before each sixteenth (200 dev games)."""


@lru_cache(maxsize=256)
def _plan(state: State) -> Plan:
    return cell_tree_plan(state) or _safe_plan(state)


def _safe_plan(state: State) -> Plan:
    """Return what bfs-safe does next."""
    path = next(safe_paths(state), None)
    if path is None:
        there = destination(state, state.head, POLICIES["bfs-safe"](state))
        assert there is not None
        return plan_of(state.head, (there,), {there: [state.head]})
    way = tuple(accumulate(path, lambda place, move: dict(state.neighbors[place])[move], initial=state.head))
    steps = distances(state, state.head)
    before = {
        place: [there for _, there in state.neighbors[place] if steps.get(there) == steps[place] - 1] for place in steps
    }
    return plan_of(state.head, way[1:], before)


def _arrow(state: State, place: Cell, before: Cell) -> str:
    """`56U`: a place and the move into it."""
    letter = next(move.value[0] for move, there in state.neighbors[before] if there == place)
    return f"{render_place(place, state.grid_size)}{letter}"


# Prompts


def _prompt(state: State, apple: Cell) -> str:
    plan = _plan(state)
    n = state.grid_size
    ways = "".join(_arrow(state, place, before) + render_place(before, n) for place, before in plan.ways.items())
    goal, head = render_place(plan.goal, n), render_place(state.head, n)
    return f"{render_start(state, apple)} length {len(state.body)} to {goal} ways {head}.{ways}"


_CELL = rf"(?:\d{{4}}|[{re.escape(SIGNS)}]{{2}})"
_WAYS = rf"ways {_CELL}\.{_CELL}[UDLR](?:{_CELL}{_CELL}[UDLR])*{_CELL}"
_PROMPT = re.compile(PROMPT_START + rf"length (?P<length>\d{{1,4}}) to {_CELL} {_WAYS}\Z")


def _read_prompt(prompt: str) -> Shown | None:
    match = _PROMPT.match(prompt)
    return match and read_start(match, int(match["length"]))


# Completions


def _completion(state: State, move: Move, _policy: str) -> str:
    plan = _plan(state)
    there = destination(state, state.head, move)
    assert there is not None
    if plan.way[0] != there:
        return f"{MOVES} {_step(state, there, state.head)}"
    steps = [_step(state, place, before) for place, before in zip(plan.way, (state.head, *plan.way), strict=False)]
    return f"{_back(state, plan)}. {MOVES} {' '.join(steps[:MOVES_AT_ONCE])}"


def _step(state: State, place: Cell, before: Cell) -> str:
    """`U56`, as in style path."""
    arrow = _arrow(state, place, before)
    return arrow[-1] + arrow[:-1]


def _back(state: State, plan: Plan) -> str:
    arrows = "".join(_arrow(state, place, plan.ways[place]) for place in reversed(plan.way))
    return f"back {arrows}{render_place(state.head, state.grid_size)}"


# Claims

_BACK = re.compile(rf"back (?:{_CELL}[UDLR])+{_CELL}?(?=\.|$)")
_PLACE = re.compile(rf"{_CELL}[UDLR]?")


def _check_claims(state: State, reply: str) -> Iterator[Claim]:
    """Yield a claim for each place on the way back: it is the next one, the move into it is the prompt's, and the head
    is the last."""
    match = _BACK.match(reply)
    if match is None:
        return
    expected = _PLACE.findall(_back(state, _plan(state)))
    for i, said in enumerate(_PLACE.finditer(reply, *match.span())):
        yield Claim(*said.span(), i < len(expected) and said[0] == expected[i])


STYLES = {"ways": Style(_prompt, _read_prompt, _completion, _check_claims, teacher="cell-tree")}
