"""Styles sentence, board and short: the shape and wording of the public heuristics data, version 0.04.

In classic mode their prompts equal those of that data byte for byte; in other modes a line names the mode.

sentence  rules, head, apple and body (neck first, tail last) spelled out: everything that decides the game but the
          apple generator
board     head, apple, length and the board drawn, top row first: H head, S body, A apple, # obstacle, . free
short     head, apple and length only: the body is unknown to the reader

*Valid* moves are the legal ones: the tail's cell may be entered. A cell is *free* if no snake and no obstacle is on it;
the apple's cell is free. *Free space* counts free cells in a straight line from the head. *Distance* is the Manhattan
distance, around the edges in wrap mode. *Danger* is a fatal move: straight on, left or right of the heading; a snake of
length 1 has no heading, UP is taken. A *path* is one of `heuristics.search`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from re import Match

from snake_dist.game.board import Cell, Move, State, destination
from snake_dist.game.rules import fatal_reason, legal_moves
from snake_dist.heuristics.search import apple_distance, apple_offset, shortest_first_moves, tail_distances
from snake_dist.styles.replies import parse_reply
from snake_dist.styles.style import Claim, Shown, Style, is_start

_MODE_LINES = {"classic": "", "wrap": "Mode: wrap (edges connect).\n", "obstacles": "Mode: obstacles.\n"}
_MOVE_ORDER = (Move.UP, Move.RIGHT, Move.DOWN, Move.LEFT)


# Prompts


def _sentence_prompt(state: State, apple: Cell) -> str:
    n, last = state.grid_size, state.grid_size - 1
    blocks = f"- Obstacle positions: {_pairs(sorted(state.obstacles))}\n" if state.mode == "obstacles" else ""
    return (
        f"You are playing Snake on a {n}x{n} grid. The coordinate system is (0,0) at bottom-left to "
        f"({last},{last}) at top-right. Movement: UP=y+1, DOWN=y-1, RIGHT=x+1, LEFT=x-1.\n{_MODE_LINES[state.mode]}\n"
        f"Current game state:\n- Snake head position: ({state.head[0]}, {state.head[1]})\n"
        f"- Apple position: ({apple[0]}, {apple[1]})\n- Snake body positions: {_pairs(state.body[1:])}\n"
        f"- Snake length: {len(state.body)}\n{blocks}\n"
        "What is the best move to make? Consider:\n1. Path to the apple\n"
        "2. Avoiding collisions with walls and snake body\n3. Maximizing score and survival\n\n"
        "Choose from: UP, DOWN, LEFT, RIGHT"
    )


def _board_prompt(state: State, apple: Cell) -> str:
    n = state.grid_size
    marks = dict.fromkeys(state.obstacles, "#") | dict.fromkeys(state.body, "S") | {apple: "A", state.head: "H"}
    rows = (" ".join(marks.get((x, y), ".") for x in range(n)) for y in reversed(range(n)))
    drawn = "\n".join(rows)
    return f"{_head_lines(state, apple)}Board:\n{drawn}\nChoose next move (UP, DOWN, LEFT, RIGHT):"


def _short_prompt(state: State, apple: Cell) -> str:
    blocks = f"Obstacles: {_pairs(sorted(state.obstacles))}\n" if state.mode == "obstacles" else ""
    return f"{_head_lines(state, apple)}{blocks}Choose next move (UP, DOWN, LEFT, RIGHT):"


def _head_lines(state: State, apple: Cell) -> str:
    n = state.grid_size
    return (
        f"Snake on {n}x{n} grid.\n{_MODE_LINES[state.mode]}"
        f"Head: {list(state.head)}, Apple: {list(apple)}, Length: {len(state.body)}.\n"
    )


def _pairs(cells: Iterable[Cell]) -> str:
    return str([list(cell) for cell in cells])


_SENTENCE = re.compile(
    r"You are playing Snake on a (?P<size>\d{1,2})x(?P=size) grid\..*?"
    r"- Snake head position: \((?P<x>\d{1,2}), (?P<y>\d{1,2})\)\n.*?- Snake length: (?P<length>\d{1,4})\n",
    re.DOTALL,
)
_SHORT = re.compile(
    r"Snake on (?P<size>\d{1,2})x(?P=size) grid\.\n(?:Mode: [^\n]*\n)?"
    r"Head: \[(?P<x>\d{1,2}), (?P<y>\d{1,2})\], Apple: [^\n]*, Length: (?P<length>\d{1,4})\.\n"
)
_DRAWING = "\nBoard:\n"


def _read_sentence(prompt: str) -> Shown | None:
    return _shown(_SENTENCE.match(prompt), prompt)


def _read_board(prompt: str) -> Shown | None:
    return _shown(_SHORT.match(prompt + "\n"), prompt) if _DRAWING in prompt else None


def _read_short(prompt: str) -> Shown | None:
    return _shown(_SHORT.match(prompt + "\n"), prompt) if _DRAWING not in prompt else None


def _shown(match: Match[str] | None, prompt: str) -> Shown | None:
    if match is None:
        return None
    x, y, length, size = (int(match[name]) for name in ("x", "y", "length", "size"))
    mode = next((mode for mode in _MODE_LINES if f"\nMode: {mode}" in prompt), "classic")
    return Shown(size, mode, is_start((x, y), length, size))


# Completions


def _sentence_completion(state: State, move: Move, _policy: str) -> str:
    free = str(_free_runs(state))
    return f"{_moving(state, move)}\n\n{_metrics(state, ' to apple', free)}\n\nConclusion: The move is: {move.value}"


def _board_completion(state: State, move: Move, policy: str) -> str:
    free = ", ".join(f"{name.upper()}={run}" for name, run in _free_runs(state).items())
    return f"{_reason(state, move, policy)}\n\n{_metrics(state, '', free)}\n\nConclusion: {move.value}"


def _short_completion(state: State, move: Move, policy: str) -> str:
    return f"{_reason(state, move, policy)}\n\nConclusion: {move.value}"


def _moving(state: State, move: Move) -> str:
    x, y = state.head
    return f"Moving {move.value} from [{x}, {y}]"


def _reason(state: State, move: Move, policy: str) -> str:
    first_moves, length = shortest_first_moves(state)
    if move in first_moves:
        headline, rationale = f"Found path to apple ({length} steps)", "Shortest path to apple"
    else:
        headline = "No path to apple" if length is None else f"Not on shortest path to apple ({length} steps)"
        rationale = "Tail stays reachable" if move in tail_distances(state) else "Legal move"
    distance, num_free = apple_distance(state, state.head), len(state.free_cells())
    return (
        f"{policy.upper()}: {headline}\n{_moving(state, move)}\n"
        f"Distance: {distance}, Free cells: {num_free}\nRationale: {rationale}"
    )


def _metrics(state: State, to_apple: str, free: str) -> str:
    legal = legal_moves(state)
    return (
        f"Metrics:\n- Valid moves: {[move.value for move in _MOVE_ORDER if move in legal]}\n"
        f"- Manhattan distance{to_apple}: {apple_distance(state, state.head)}\n"
        f"- Apple direction: {_towards_apple(state)}\n"
        f"- Danger assessment: {_dangers(state)}\n- Free space: {free}"
    )


def _towards_apple(state: State) -> dict[str, int]:
    dx, dy = apple_offset(state)
    return {"up": int(dy > 0), "down": int(dy < 0), "left": int(dx < 0), "right": int(dx > 0)}


def _dangers(state: State) -> dict[str, int]:
    """Return 1 for straight, left or right of the heading where a move there is fatal, else 0."""
    heading = Move.UP
    if len(state.body) > 1:
        heading = next(move for move, there in state.neighbors[state.body[1]] if there == state.head)
    dx, dy = heading.delta
    by_delta = {move.delta: int(fatal_reason(state, move) is not None) for move in Move}
    return {"straight": by_delta[dx, dy], "left": by_delta[-dy, dx], "right": by_delta[dy, -dx]}


def _free_runs(state: State) -> dict[str, int]:
    """Return for each direction how many free cells lie in a row from the head."""
    return {move.value.lower(): _free_run(state, move) for move in Move}


def _free_run(state: State, move: Move) -> int:
    taken = set(state.body)
    count, cell = 0, destination(state, state.head, move)
    while cell is not None and cell not in taken:
        count, cell = count + 1, destination(state, cell, move)
    return count


# Claims


def _check_claims(state: State, reply: str) -> Iterator[Claim]:
    for pattern, is_true in _FACTS:
        for match in pattern.finditer(reply):
            yield Claim(*match.span(), is_true(state, match, reply))
    for pattern, key_value, facts_of in _TABLES:
        for table in pattern.finditer(reply):
            facts = facts_of(state)
            for entry in key_value.finditer(reply, *table.span(1)):
                yield Claim(*entry.span(), facts.get(entry[1].lower()) == int(entry[2]))


def _is_head(state: State, match: Match[str], _: str) -> bool:
    return (int(match[1]), int(match[2])) == state.head


def _are_valid_moves(state: State, match: Match[str], _: str) -> bool:
    return sorted(re.findall(r"[A-Z]+", match[1])) == sorted(move.value for move in legal_moves(state))


def _is_distance(state: State, match: Match[str], _: str) -> bool:
    return int(match[1]) == apple_distance(state, state.head)


def _is_num_free(state: State, match: Match[str], _: str) -> bool:
    return int(match[1]) == len(state.free_cells())


def _is_path(state: State, match: Match[str], reply: str) -> bool:
    """`Found path to apple (7 steps)`, `Not on shortest path to apple (7 steps)`: of the move of this reply."""
    first_moves, length = shortest_first_moves(state)
    return int(match[2]) == length and (parse_reply(reply) in first_moves) == (match[1] == "Found")


_Fact = Callable[[State, Match[str], str], bool]
_FACTS: tuple[tuple[re.Pattern[str], _Fact], ...] = (
    (re.compile(r"\bfrom \[(\d+), (\d+)\]"), _is_head),
    (re.compile(r"Valid moves: \[([^\]\n]*)\]"), _are_valid_moves),
    (re.compile(r"Manhattan distance(?: to apple)?: (\d+)"), _is_distance),
    (re.compile(r"^Distance: (\d+)", re.MULTILINE), _is_distance),
    (re.compile(r"Free cells: (\d+)"), _is_num_free),
    (re.compile(r"\b(Found|Not on shortest) path to apple \((\d+) steps\)"), _is_path),
    (re.compile(r"\bNo path to apple"), lambda state, _match, _: shortest_first_moves(state)[1] is None),
    (
        re.compile(r"Rationale: Shortest path to apple"),
        lambda state, _, reply: parse_reply(reply) in shortest_first_moves(state)[0],
    ),
    (
        re.compile(r"Rationale: Tail stays reachable"),
        lambda state, _, reply: parse_reply(reply) in tail_distances(state),
    ),
    (re.compile(r"Rationale: Legal move"), lambda state, _, reply: parse_reply(reply) in legal_moves(state)),
)
_QUOTED = re.compile(r"'(\w+)': (\d+)")
_TABLES: tuple[tuple[re.Pattern[str], re.Pattern[str], Callable[[State], dict[str, int]]], ...] = (
    (re.compile(r"Apple direction: \{([^}\n]*)\}"), _QUOTED, _towards_apple),
    (re.compile(r"Danger assessment: \{([^}\n]*)\}"), _QUOTED, _dangers),
    (re.compile(r"Free space: \{([^}\n]*)\}"), _QUOTED, _free_runs),
    (re.compile(r"Free space: ((?:[A-Z]+=\d+(?:, )?)+)"), re.compile(r"([A-Z]+)=(\d+)"), _free_runs),
)

STYLES = {
    "sentence": Style(_sentence_prompt, _read_sentence, _sentence_completion, _check_claims),
    "board": Style(_board_prompt, _read_board, _board_completion, _check_claims),
    "short": Style(_short_prompt, _read_short, _short_completion, _check_claims),
}
