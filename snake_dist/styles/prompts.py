"""The text form of Snake: a state becomes a prompt, a reply becomes a move.

Training data and players render prompts with the same function, so the two cannot drift apart.

Prompt styles. The first three equal the prompts of the public v0.04 heuristics data byte for byte in classic
mode; in other modes they gain a line that names the mode.

sentence  rules, head, apple and body (neck first, tail last) spelled out
board     head, apple, length and the board drawn, top row first: H head, S body, A apple, # obstacle, . free
short     head, apple and length only: the body is unknown to the reader
compact   `head 36 apple 96 body 46-56-66`: x then y of each cell, both zero-padded to the width of N - 1;
          body neck first, `-` for a snake of length 1. In those modes `wrap ` or `obstacles ` stands in
          front, the latter with ` blocks 12-15` at the end. `grid 8 ` stands first unless N is 10.
cycle     `head 36 apple 96 tail 66 length 4`, with the same words in front: the body between head and tail is
          unknown to the reader

Training data has more styles than prompts: `STYLES` says which prompt each of them shows.

sentence and compact show everything that decides the game but the apple generator: different positions give
different prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from snake_dist.errors import InputError
from snake_dist.game.board import Cell, Move, State

STYLES = {
    "sentence": "sentence",
    "board": "board",
    "short": "short",
    "compact": "compact",
    "move": "compact",
    "facts": "compact",
    "path": "compact",
    "cycle": "cycle",
}
"""Style of a training line -> style of its prompt. The completions are those of `styles.completions`."""
PROMPT_STYLES = tuple(dict.fromkeys(STYLES.values()))
"""Those whose prompts differ."""

_COMPACT_DEFAULT_GRID_SIZE = 10


def check_style(style: str) -> None:
    """Raise InputError unless `style` is one of `STYLES`."""
    if style not in STYLES:
        raise InputError(f"unknown style {style!r}: choose from {', '.join(STYLES)}")


def render_prompt(state: State, style: str) -> str:
    """What a player is shown. Raises InputError for a style not in `STYLES`, ValueError for a full board."""
    check_style(style)
    if state.apple is None:
        raise ValueError("a full board has no apple and no next move to ask for")
    write = {"sentence": _sentence, "board": _board, "short": _short, "compact": _compact, "cycle": _ends}
    return write[STYLES[style]](state, state.apple)


def _sentence(state: State, apple: Cell) -> str:
    n, last = state.grid_size, state.grid_size - 1
    mode = _mode_line(state)
    blocks = f"- Obstacle positions: {_pairs(sorted(state.obstacles))}\n" if state.mode == "obstacles" else ""
    return (
        f"You are playing Snake on a {n}x{n} grid. The coordinate system is (0,0) at bottom-left to "
        f"({last},{last}) at top-right. Movement: UP=y+1, DOWN=y-1, RIGHT=x+1, LEFT=x-1.\n{mode}\n"
        f"Current game state:\n- Snake head position: ({state.head[0]}, {state.head[1]})\n"
        f"- Apple position: ({apple[0]}, {apple[1]})\n- Snake body positions: {_pairs(state.body[1:])}\n"
        f"- Snake length: {len(state.body)}\n{blocks}\n"
        "What is the best move to make? Consider:\n1. Path to the apple\n"
        "2. Avoiding collisions with walls and snake body\n3. Maximizing score and survival\n\n"
        "Choose from: UP, DOWN, LEFT, RIGHT"
    )


def _short(state: State, apple: Cell) -> str:
    blocks = f"Obstacles: {_pairs(sorted(state.obstacles))}\n" if state.mode == "obstacles" else ""
    return f"{_head_lines(state, apple)}{blocks}Choose next move (UP, DOWN, LEFT, RIGHT):"


def _board(state: State, apple: Cell) -> str:
    n = state.grid_size
    marks = dict.fromkeys(state.obstacles, "#") | dict.fromkeys(state.body, "S") | {apple: "A", state.head: "H"}
    rows = (" ".join(marks.get((x, y), ".") for x in range(n)) for y in reversed(range(n)))
    drawn = "\n".join(rows)
    return f"{_head_lines(state, apple)}Board:\n{drawn}\nChoose next move (UP, DOWN, LEFT, RIGHT):"


def _compact(state: State, apple: Cell) -> str:
    body = _cells(state, state.body[1:])
    blocks = f" blocks {_cells(state, sorted(state.obstacles))}" if state.mode == "obstacles" else ""
    return f"{_compact_start(state, apple)} body {body}{blocks}"


def _ends(state: State, apple: Cell) -> str:
    return f"{_compact_start(state, apple)} tail {_cells(state, state.body[-1:])} length {len(state.body)}"


def _compact_start(state: State, apple: Cell) -> str:
    size = "" if state.grid_size == _COMPACT_DEFAULT_GRID_SIZE else f"grid {state.grid_size} "
    mode = "" if state.mode == "classic" else f"{state.mode} "
    return f"{size}{mode}head {_cells(state, [state.head])} apple {_cells(state, [apple])}"


def _cells(state: State, them: Iterable[Cell]) -> str:
    return "-".join(format_cell(cell, state.grid_size) for cell in them) or "-"


def format_cell(cell: Cell, grid_size: int) -> str:
    """A cell in the compact style: x then y, both zero-padded to the width of N - 1."""
    width = len(str(grid_size - 1))
    return f"{cell[0]:0{width}d}{cell[1]:0{width}d}"


def _head_lines(state: State, apple: Cell) -> str:
    n = state.grid_size
    return (
        f"Snake on {n}x{n} grid.\n{_mode_line(state)}"
        f"Head: {list(state.head)}, Apple: {list(apple)}, Length: {len(state.body)}.\n"
    )


def _mode_line(state: State) -> str:
    return {"classic": "", "wrap": "Mode: wrap (edges connect).\n", "obstacles": "Mode: obstacles.\n"}[state.mode]


def _pairs(cells: Iterable[Cell]) -> str:
    return str([list(cell) for cell in cells])


_MOVE = "(UP|DOWN|LEFT|RIGHT)"
# A decision that closes the reply, at the start of a sentence: "... Move: UP", "Conclusion: The move is: UP".
_CLOSING = re.compile(rf"(?:^|\n|[.!?]\s)[ \t]*(?:Move: |Conclusion: (?:The move is: )?){_MOVE}\.?\Z")
# A decision that opens the reply: "UP", "UP. Because ...", "Move: UP. Reasoning: ...".
_OPENING = re.compile(rf"{_MOVE}\.?\Z|{_MOVE}\. \S|Move: {_MOVE}\. Reasoning: \S")
# Several moves that close the reply: "... Moves: U58 U59 R60".
_SEVERAL = re.compile(r"(?:^|[.!?\n]\s*)Moves:(?P<moves>(?: [UDLR]\d{0,4})+)\.?\Z")
_SEVERAL_ANYWHERE = re.compile(r"\bMoves:(?= [UDLR]\d{0,4}\b)")
_BY_INITIAL = {move.value[0]: move for move in Move}
# Whatever else reads as a decision, with the word it decides on: each must name the same move.
_DECISIONS = (
    re.compile(r"\b(?i:move|conclusion)[ \t]*:[ \t]*(?:The move is:[ \t]*)?([^\s.]*)"),
    re.compile(r"\bMoving ([A-Z]+) from\b"),
    re.compile(rf"(?:(?<=[.!?\n])|^)[ \t]*{_MOVE}[ \t]*(?=[.!?\n]|\Z)"),
)


def parse_reply(reply: str) -> Move | None:
    """The one move a reply decides on, or None; the first, where it decides on several (`parse_moves`)."""
    moves = parse_moves(reply)
    return moves[0] if moves else None


def parse_moves(reply: str) -> tuple[Move, ...] | None:
    """The moves a reply decides on, in order, or None. Strict: nothing is repaired.

    Accepted are a reply that ends in the sentence `Move: X`, `Conclusion: X` or `Conclusion: The move is: X`,
    one that is `X` or opens with it as in `X. <text>` or `Move: X. Reasoning: <text>`, and a JSON object with
    one key `move`. X is UP, DOWN, LEFT or RIGHT in capitals; a full stop may follow. Several moves are decided
    on by a reply that ends in the sentence `Moves: U D12 R3`: initials, to which a number may be joined that is
    reasoning. None if anything else in the reply that reads as a decision names something else.
    """
    text = reply.strip()
    if several := _SEVERAL.search(text):
        before = text[: several.start("moves")]
        if any(pattern.search(before) for pattern in (*_DECISIONS, _SEVERAL_ANYWHERE)) or _OPENING.match(before):
            return None
        return tuple(_BY_INITIAL[word[0]] for word in several["moves"].split())
    move, rest = _json_move(text) if text.startswith("{") else (_plain_move(text), text)
    if (
        move is None
        or _SEVERAL_ANYWHERE.search(rest)
        or any(word != move for pattern in _DECISIONS for word in pattern.findall(rest))
    ):
        return None
    return (Move(move),)


def _plain_move(text: str) -> str | None:
    matches = (_CLOSING.search(text), _OPENING.match(text))
    found = {word for match in matches if match for word in match.groups() if word}
    return found.pop() if len(found) == 1 else None


def _json_move(text: str) -> tuple[str | None, str]:
    """(the move, the object's other values as text)."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None, ""
    moves = [(key, value) for key, value in pairs if key == "move"]
    rest = "\n".join(str(value) for key, value in pairs if key != "move")
    return (moves[0][1], rest) if moves in [[("move", move.value)] for move in Move] else (None, rest)


_SENTENCE_PROMPT = re.compile(
    r"You are playing Snake on a (?P<size>\d{1,2})x(?P=size) grid\..*?"
    r"- Snake head position: \((?P<x>\d{1,2}), (?P<y>\d{1,2})\)\n.*?- Snake length: (?P<length>\d{1,4})\n",
    re.DOTALL,
)
_SHORT_PROMPT = re.compile(
    r"Snake on (?P<size>\d{1,2})x(?P=size) grid\.\n(?:Mode: [^\n]*\n)?"
    r"Head: \[(?P<x>\d{1,2}), (?P<y>\d{1,2})\], Apple: [^\n]*, Length: (?P<length>\d{1,4})\.\n"
)
_COMPACT_PROMPT = re.compile(
    r"(?:grid (?P<size>\d{1,2}) )?(?:wrap |obstacles )?head (?P<head>(?:\d\d){1,2}) apple \d+ "
    r"(?:body (?P<body>-|\d+(?:-\d+)*)(?: blocks (?:-|\d+(?:-\d+)*))?|tail \d+ length (?P<length>\d{1,4}))\Z"
)


def starts_game(prompt: str) -> bool | None:
    """Whether a line's prompt shows a new game: a snake of length 1 at (N // 2, N // 2).

    None if the prompt is of no dialect known here. For lines that carry no game id; a snake of length 1 that
    comes back to the centre before its first apple looks like a new game too.
    """
    prompt = prompt.strip()
    if match := _COMPACT_PROMPT.match(prompt):
        size, head = int(match["size"] or _COMPACT_DEFAULT_GRID_SIZE), match["head"]
        width = len(head) // 2
        return (match["body"] == "-" or match["length"] == "1") and (int(head[:width]), int(head[width:])) == (
            size // 2,
            size // 2,
        )
    match = _SENTENCE_PROMPT.match(prompt) or _SHORT_PROMPT.match(prompt + "\n")
    if match is None:
        return None
    centre = int(match["size"]) // 2
    return int(match["length"]) == 1 and (int(match["x"]), int(match["y"])) == (centre, centre)


def board_of(prompt: str) -> tuple[str, int, str] | None:
    """(style, grid size, mode) that a prompt shows; None if it is of no dialect known here."""
    prompt = prompt.strip()
    if match := _COMPACT_PROMPT.match(prompt):
        style, size = "compact" if match["body"] else "cycle", int(match["size"] or _COMPACT_DEFAULT_GRID_SIZE)
        mode = next((mode for mode in ("wrap", "obstacles") if f"{mode} head" in prompt), "classic")
    elif match := _SENTENCE_PROMPT.match(prompt) or _SHORT_PROMPT.match(prompt + "\n"):
        sentence = "Snake head position" in prompt
        style, size = (
            "sentence" if sentence else "board" if "\nBoard:\n" in prompt else "short",
            int(match["size"]),
        )
        mode = next((mode for mode in ("wrap", "obstacles") if f"\nMode: {mode}" in prompt), "classic")
    else:
        return None
    return style, size, mode
