"""Style roads: which of the cell tree's one-way roads are open, move by move to the apple.

The prompt is that of `styles.compact`, with the whole body. The completion says what that style says around the head,
then the place that the teacher heads for (`heuristics.cell_tree`), the apple or one that it would cut off; for each of
up to `MAX_MOVES` moves to it the roads that the rules leave open, where there are two with the steps that the way to
the goal takes on either (`-`: none), and which is taken; last the moves:
`U35 D33 L24 neck R44. ok U D R. roads to 56. R44 5 U35 9 so R44, R54, R64 6 U55 2 so U55, U56. Moves: R R U U`

To a snake that does not lie along the roads it teaches what compact does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from snake_dist.game.board import Cell, Move, State
from snake_dist.game.rules import step
from snake_dist.heuristics.cell_tree import cell_tree_goal, steps_by_road
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.compact import (
    BY_LETTER,
    MAX_MOVES,
    MOVES,
    PLAN,
    around_head,
    body_prompt,
    compact_completion,
    read_body_prompt,
    render_cell,
)
from snake_dist.styles.style import Claim, Style

Roads = dict[Move, tuple[Cell, int | None]]


def _completion(state: State, move: Move, policy: str) -> str:
    goal = cell_tree_goal(state)
    now = state
    told: list[str] = []
    walked: list[str] = []
    while (
        goal
        and now.end is None
        and now.score == state.score
        and cell_tree_goal(now) == goal
        and len(walked) < MAX_MOVES
    ):
        taken = POLICIES[policy](now) if walked else move
        if taken not in (roads := steps_by_road(now, goal)):
            break
        told.append(_roads(now, roads, taken))
        walked.append(taken.value[0])
        now = step(now, taken)
    if goal is None or not walked:
        return compact_completion(state, move, policy)
    to = render_cell(goal, state.grid_size)
    return f"{around_head(state)}. roads to {to}. {', '.join(told)}. {MOVES} {' '.join(walked)}"


def _roads(state: State, roads: Roads, taken: Move) -> str:
    """`U35 9 R44 5 so R44`: the open roads, the steps on each, and the one taken; that alone if it is the only one."""
    named = {move: move.value[0] + render_cell(there, state.grid_size) for move, (there, _) in sorted(roads.items())}
    if len(named) == 1:
        return named[taken]
    led = " ".join(f"{name} {'-' if roads[move][1] is None else roads[move][1]}" for move, name in named.items())
    return f"{led} so {named[taken]}"


# Claims

_GOAL = re.compile(r"roads to (\d+)\. ")
_STEP = re.compile(
    r"(?P<roads>(?P<first>[UDLR])\d+(?: (?:\d+|-) [UDLR]\d+ (?:\d+|-) so (?P<so>[UDLR])\d+)?)(?:, |\.|$)"
)


def _check_claims(state: State, reply: str) -> Iterator[Claim]:
    """Yield a claim for the goal, and one for each move: its open roads, their steps, the one taken."""
    plan, said = PLAN.search(reply), _GOAL.search(reply)
    if plan is None or plan[1] != "roads" or said is None:
        return
    goal = cell_tree_goal(state)
    yield Claim(*said.span(1), goal is not None and said[1] == render_cell(goal, state.grid_size))
    now: State | None = state  # None: behind a move that could not be made
    at = said.end()
    while match := _STEP.match(reply, at):
        at = match.end()
        taken = BY_LETTER[match["so"] or match["first"]]
        roads = steps_by_road(now, goal) if goal and now and (now.end, now.score) == (None, state.score) else {}
        is_true = now is not None and taken in roads and match["roads"] == _roads(now, roads, taken)
        yield Claim(*match.span("roads"), is_true)
        now = step(now, taken) if now is not None and taken in roads else None


STYLES = {"roads": Style(body_prompt, read_body_prompt, _completion, _check_claims, teacher="cell-tree")}
