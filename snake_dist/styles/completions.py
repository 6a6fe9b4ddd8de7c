"""What the teacher says about a position: facts, then the move. Every claim is true of the state, by test.

sentence, board and short have the shape and wording of the public v0.04 data; compact names for each
direction the cell it leads to and what is there, in few tokens, for small models:

    U37 D35 L26 R46 body. ok U D L. apple 39 R 66 -. Move: UP

The others say less or more of it, to find out what helps (`docs/climb.md`):

move   `Move: UP`
facts  compact without the legal moves: `U37 D35 L26 R46 body. apple 39 R 66 -. Move: UP`
path   compact with the teacher's moves to the apple, `MAX_MOVES` at most, and the cells they lead to:
       `U37 D35 L26 R46 body. ok U D L. apple 39 R 66 -. Moves: U37 R47`
cycle  the slots (`heuristics.hamiltonian`) of head, apple and tail. With shortcuts: those of apple and tail once more,
       counted on from the head's, as all that follow are; the last slot that shortcuts may lead to; for each of up to
       `MAX_SHORTCUTS` moves where moves lead, nearest first and up to the first beyond reach, and which is taken:
       the farthest within. Without: `follow`, and up to `MAX_MOVES` moves and their slots:
       `at 23 apple 72 072 tail 21 121 reach 072. D024 R026 L116 so R026. ... Moves: R R`
       `at 98 apple 19 tail 41 follow. Moves: U99 U00 U01`

Words used here. *Valid* moves are the legal ones: the tail's cell may be entered. A cell is *free* if no
snake and no obstacle is on it; the apple's cell is free. *Free space* counts free cells in a straight line
from the head. *Distance* is the Manhattan distance, around the edges in wrap mode. *Danger* is a fatal move:
straight on, left or right of the heading; a snake of length 1 has no heading, UP is taken. A *path* is one of
`heuristics.search`. `docs/data.md` shows an example of each style.
"""

from __future__ import annotations

from itertools import islice

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import fatal_reason, legal_moves, step
from snake_dist.heuristics.hamiltonian import CycleView, cycle_slots, shortcut_path, view_cycle
from snake_dist.heuristics.policies import POLICIES, apple_distance
from snake_dist.heuristics.search import distances, tail_distances
from snake_dist.styles.prompts import check_style, format_cell

MAX_MOVES = 16
"""Moves that a line of several teaches, at most."""
MAX_SHORTCUTS = 4
"""The same where they are shortcuts of the cycle: the tail moves on meanwhile, and opens shorter ones."""
_V004_ORDER = (Move.UP, Move.RIGHT, Move.DOWN, Move.LEFT)


def render_completion(state: State, move: Move, style: str, policy: str) -> str:
    """The completion that teaches `move`, chosen by `policy` in `state`; styles: `game.text.STYLES`.

    Raises InputError for an unknown style, ValueError for a finished game, a move that is fatal, and style cycle
    where `move` is not the next of `shortcut_path`.
    """
    check_style(style)
    if state.apple is None or fatal_reason(state, move) is not None:
        raise ValueError(f"{move.value} is no move to teach: the board is full or the move fatal")
    x, y = state.head
    moving = f"Moving {move.value} from [{x}, {y}]"
    if style == "cycle":
        return _cycle(state, move)
    if style in ("move", "facts", "compact", "path"):
        facts = "" if style == "move" else f"{_surroundings(state)}. "
        ok = f"ok {_letters(state)}. " if style in ("compact", "path") else ""
        apple = f"apple {' '.join(apple_sides(state))}. " if facts else ""
        decision = f"Moves: {_path(state, move, policy)}" if style == "path" else f"Move: {move.value}"
        return f"{facts}{ok}{apple}{decision}"
    if style == "sentence":
        return f"{moving}\n\n{_metrics(state, style)}\n\nConclusion: The move is: {move.value}"
    found, rationale = _reason(state, move)
    num_free = len(state.free_cells())
    lines = [
        f"{policy.upper()}: {found}",
        moving,
        f"Distance: {apple_distance(state, state.head)}, Free cells: {num_free}",
        f"Rationale: {rationale}",
        "",
    ]
    if style == "board":
        lines += [_metrics(state, style), ""]
    return "\n".join([*lines, f"Conclusion: {move.value}"])


def begins_shortest_path(state: State, move: Move) -> bool:
    """Whether a shortest path to the apple (see `heuristics.search`) starts with `move`."""
    return move in shortest_first_moves(state)[0]


def declines_apple(state: State, move: Move) -> bool:
    """Whether the apple lies beside the head and `move` does not take it."""
    return any(there == state.apple and taking is not move for taking, there in state.neighbors[state.head])


def is_apple_blocked(state: State) -> bool:
    """Whether no legal move leads nearer to the apple."""
    now = apple_distance(state, state.head)
    nearer = (move for move, there in state.neighbors[state.head] if apple_distance(state, there) < now)
    return all(fatal_reason(state, move) for move in nearer)


def apple_offset(state: State) -> Cell:
    """(dx, dy) from head to apple; in wrap mode the shorter way round, right or up where both are equal."""
    assert state.apple is not None
    dx, dy = state.apple[0] - state.head[0], state.apple[1] - state.head[1]
    if state.mode != "wrap":
        return dx, dy
    n = state.grid_size
    half = (n - 1) // 2
    return (dx + half) % n - half, (dy + half) % n - half


def free_run(state: State, move: Move) -> int:
    """How many free cells lie in a row from the head in the direction of `move`."""
    taken = set(state.body)
    count, cell = 0, destination(state, state.head, move)
    while cell is not None and cell not in taken:
        count, cell = count + 1, destination(state, cell, move)
    return count


def heading(state: State) -> Move:
    """The direction from neck to head, around the edge if need be; UP for a snake of length 1."""
    if len(state.body) == 1:
        return Move.UP
    return next(move for move, there in state.neighbors[state.body[1]] if there == state.head)


def _reason(state: State, move: Move) -> tuple[str, str]:
    """(headline, rationale) of the board and short styles."""
    first_moves, length = shortest_first_moves(state)
    if move in first_moves:
        return f"Found path to apple ({length} steps)", "Shortest path to apple"
    headline = "No path to apple" if length is None else f"Not on shortest path to apple ({length} steps)"
    return headline, "Tail stays reachable" if move in tail_distances(state) else "Legal move"


def shortest_first_moves(state: State) -> tuple[set[Move], int | None]:
    """(the moves that begin a shortest path to the apple, its length); no moves and None if there is no path."""
    assert state.apple is not None
    to_apple = distances(state, state.apple)
    lengths = {move: 1 + to_apple[there] for move, there in state.neighbors[state.head] if there in to_apple}
    shortest = min(lengths.values(), default=None)
    return {move for move, length in lengths.items() if length == shortest}, shortest


def _metrics(state: State, style: str) -> str:
    dx, dy = apple_offset(state)
    towards = {"up": int(dy > 0), "down": int(dy < 0), "left": int(dx < 0), "right": int(dx > 0)}
    runs = {move: free_run(state, move) for move in Move}
    if style == "sentence":
        to_apple, free = " to apple", str({move.value.lower(): run for move, run in runs.items()})
    else:
        to_apple, free = "", ", ".join(f"{move.value}={run}" for move, run in runs.items())
    legal = legal_moves(state)
    return "\n".join(
        [
            "Metrics:",
            f"- Valid moves: {[move.value for move in _V004_ORDER if move in legal]}",
            f"- Manhattan distance{to_apple}: {apple_distance(state, state.head)}",
            f"- Apple direction: {towards}",
            f"- Danger assessment: {dangers(state)}",
            f"- Free space: {free}",
        ]
    )


def dangers(state: State) -> dict[str, int]:
    """1 for straight, left or right of the heading where a move there is fatal, else 0."""
    dx, dy = heading(state).delta
    by_delta = {move.delta: int(fatal_reason(state, move) is not None) for move in Move}
    return {"straight": by_delta[dx, dy], "left": by_delta[-dy, dx], "right": by_delta[dy, -dx]}


def _path(state: State, move: Move, policy: str) -> str:
    """`R46 R56`: the moves of `policy` from `move` to the apple, `MAX_MOVES` at most, and where they lead."""
    walked: list[str] = []
    now = state
    while now.end is None and now.score == state.score and len(walked) < MAX_MOVES:
        taken = POLICIES[policy](now) if walked else move
        now = step(now, taken)
        walked.append(f"{taken.value[0]}{format_cell(now.head, now.grid_size)}")
    return " ".join(walked)


def _cycle(state: State, move: Move) -> str:
    view = view_cycle(state)
    path = list(islice(shortcut_path(state), MAX_MOVES if view is None or view.reach is None else MAX_SHORTCUTS))
    if view is None or not path or path[0][0] is not move:
        raise ValueError(f"{move.value} does not follow the cycle: style cycle cannot teach it")
    _, count = cycle_slots(state.grid_size, state.mode)
    own = len(str(count - 1))
    at, apple, tail = (f"{slot % count:0{own}}" for slot in (view.head, view.apple, view.tail))
    if view.reach is None:
        walked = " ".join(f"{taken.value[0]}{slot % count:0{own}}" for taken, slot in path)
        return f"at {at} apple {apple} tail {tail} follow. Moves: {walked}"
    facts = f"at {at} apple {apple} {_counted_on(state, view.apple)} tail {tail} {_counted_on(state, view.tail)}"
    moves = " ".join(taken.value[0] for taken, _ in path)
    return f"{facts} reach {_counted_on(state, view.reach)}. {_choices(state, view, path)} Moves: {moves}"


def _counted_on(state: State, slot: int) -> str:
    """With as many digits as any other of this board: numbers of different length are hard to compare.

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
    told = []
    for taken, slot in path:
        led = sorted((here + (slots[there] - here) % count, move.value[0]) for move, there in state.neighbors[cell])
        within = sum(to <= reach for to, _ in led)
        listed = " ".join(letter + _counted_on(state, to) for to, letter in led[: within + 1])
        told.append(f"{listed} so {taken.value[0]}{_counted_on(state, slot)}.")
        cell, here = dict(state.neighbors[cell])[taken], slot
    return " ".join(told)


def _surroundings(state: State) -> str:
    """`U37 D35 L26 R46 body`: the cell each of the four moves leads to, and what is there unless it is free."""
    return " ".join(f"{move.value[0]}{what_is_there(state, move)}" for move in Move)


def what_is_there(state: State, move: Move) -> str:
    """The cell that `move` leads to and what is on it, as the compact style says it; ` wall` beyond the board."""
    dx, dy = move.delta
    x, y, n = state.head[0] + dx, state.head[1] + dy, state.grid_size
    if state.mode == "wrap":
        x, y = x % n, y % n
    elif not (0 <= x < n and 0 <= y < n):
        return " wall"
    there, body = (x, y), state.body
    if there in state.obstacles:
        what = "block"
    elif there == state.apple:
        what = "apple"
    elif len(body) > 1 and there == body[1]:
        what = "neck"
    elif there in body:
        what = "tail" if there == body[-1] else "body"
    else:
        return format_cell(there, n)
    return f"{format_cell(there, n)} {what}"


def _letters(state: State) -> str:
    return " ".join(move.value[0] for move in legal_moves(state))


def apple_sides(state: State) -> tuple[str, str]:
    """`39 R`, `66 -`: x of head and apple, and the apple's side, `-` where both are level; the same of y.

    Small models compare what stands side by side: without the numbers before them, half of the sides (102 of 200 in the
    state bank) were right after 1,600 examples, and no apple was eaten. Distances they learn late: by subtraction.
    """
    assert state.apple is not None
    dx, dy = apple_offset(state)
    across = ("R" if dx > 0 else "L") if dx else "-"
    along = ("U" if dy > 0 else "D") if dy else "-"
    x, y = (format_cell(pair, state.grid_size) for pair in zip(state.head, state.apple, strict=True))
    return f"{x} {across}", f"{y} {along}"
