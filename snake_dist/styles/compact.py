"""Styles compact, move, facts and path: few tokens, for small models.

The prompt of all four is `head 36 apple 96 body 46-56-66`: x then y of each cell, both zero-padded to the width of
N - 1; body neck first, `-` for a snake of length 1. Modes other than classic stand in front, and in mode obstacles
` blocks 12-15` at the end. `grid 8 ` stands first unless N is 10. Different positions have different prompts.

compact  for each direction the cell it leads to and what is there, the legal moves, the apple's sides, the move:
         `U37 D35 L26 R46 body. ok U D L. apple 39 R 66 -. Move: UP`
move     `Move: UP`
facts    compact without the legal moves: `U37 D35 L26 R46 body. apple 39 R 66 -. Move: UP`
path     compact with the teacher's moves to the apple, `MAX_MOVES` at most, and the cells they lead to:
         `U37 D35 L26 R46 body. ok U D L. apple 39 R 66 -. Moves: U37 R47`

The last three say less or more of the same, to learn what helps (`docs/climb.md`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from re import Match

from snake_dist.game.board import MODES, Cell, Move, State, destination
from snake_dist.game.rules import legal_moves, step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.heuristics.search import apple_offset
from snake_dist.styles.style import Claim, Shown, Style, is_start

MAX_MOVES = 16
"""Moves that a line of several teaches, at most."""
BY_LETTER = {move.value[0]: move for move in Move}
MOVES = "Moves:"
STEP = re.compile(r" (?P<move>[UDLR])(?P<to>\d+)")
"""After `MOVES`."""
SIGNS = "0123456789&~@^#;"
"""Coordinates in `render_place`. Tokenizers leave those after 9 alone beside letters and digits."""
PLAN = re.compile(r"(?:\A|(?<=\. ))(at|roads) ")
"""Begins a plan in the words of styles cycle (`at`, in which the same words mean slots) and roads."""
PROMPT_START = (
    rf"(?:grid (?P<size>\d{{1,2}}) )?(?:(?P<mode>{'|'.join(MODES[1:])}) )?head (?P<head>(?:\d\d){{1,2}}) apple \d+ "
)

_DEFAULT_GRID_SIZE = 10


# Prompts


def body_prompt(state: State, apple: Cell) -> str:
    body = render_cells(state.body[1:], state.grid_size)
    blocks = f" blocks {render_cells(sorted(state.obstacles), state.grid_size)}" if state.mode == "obstacles" else ""
    return f"{render_start(state, apple)} body {body}{blocks}"


def render_start(state: State, apple: Cell) -> str:
    """Return the board's size and mode, unless they are the usual ones, head and apple."""
    n = state.grid_size
    size = "" if n == _DEFAULT_GRID_SIZE else f"grid {n} "
    mode = "" if state.mode == "classic" else f"{state.mode} "
    return f"{size}{mode}head {render_cell(state.head, n)} apple {render_cell(apple, n)}"


def render_cells(cells: Iterable[Cell], grid_size: int) -> str:
    """Return the cells joined by `-`; `-` alone for none."""
    return "-".join(render_cell(cell, grid_size) for cell in cells) or "-"


def render_cell(cell: Cell, grid_size: int) -> str:
    """Return x then y, both zero-padded to the width of N - 1."""
    width = len(str(grid_size - 1))
    return f"{cell[0]:0{width}d}{cell[1]:0{width}d}"


def render_place(cell: Cell, grid_size: int) -> str:
    """Return x then y, a sign each, where there are enough of them; on larger boards as `render_cell`."""
    return SIGNS[cell[0]] + SIGNS[cell[1]] if grid_size <= len(SIGNS) else render_cell(cell, grid_size)


_PROMPT = re.compile(PROMPT_START + r"body (?P<body>-|\d+(?:-\d+)*)(?: blocks (?:-|\d+(?:-\d+)*))?\Z")


def read_body_prompt(prompt: str) -> Shown | None:
    match = _PROMPT.match(prompt)
    return match and read_start(match, length=1 if match["body"] == "-" else 2)


def read_start(match: Match[str], length: int) -> Shown:
    """Return what a prompt shows that begins with `PROMPT_START`; `length`: of the snake, 2 for any longer one."""
    size, head = int(match["size"] or _DEFAULT_GRID_SIZE), match["head"]
    width = len(head) // 2
    return Shown(size, match["mode"] or "classic", is_start((int(head[:width]), int(head[width:])), length, size))


# Completions


def compact_completion(state: State, move: Move, _policy: str) -> str:
    return f"{around_head(state)}. {_apple(state)}. Move: {move.value}"


def around_head(state: State) -> str:
    """Return what lies around the head, and the legal moves."""
    return f"{_surroundings(state)}. {_legal(state)}"


def _move_completion(_state: State, move: Move, _policy: str) -> str:
    return f"Move: {move.value}"


def _facts_completion(state: State, move: Move, _policy: str) -> str:
    return f"{_surroundings(state)}. {_apple(state)}. Move: {move.value}"


def _path_completion(state: State, move: Move, policy: str) -> str:
    walked: list[str] = []
    now = state
    while now.end is None and now.score == state.score and len(walked) < MAX_MOVES:
        taken = POLICIES[policy](now) if walked else move
        now = step(now, taken)
        walked.append(f"{taken.value[0]}{render_cell(now.head, now.grid_size)}")
    return f"{around_head(state)}. {_apple(state)}. {MOVES} {' '.join(walked)}"


def _surroundings(state: State) -> str:
    """`U37 D35 L26 R46 body`: the cell each of the four moves leads to, and what is there unless it is free."""
    return " ".join(f"{move.value[0]}{_what_is_there(state, move)}" for move in Move)


def _what_is_there(state: State, move: Move) -> str:
    """Return the cell that `move` leads to and what is on it; ` wall` beyond the board."""
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
        return render_cell(there, n)
    return f"{render_cell(there, n)} {what}"


def _legal(state: State) -> str:
    return f"ok {' '.join(move.value[0] for move in legal_moves(state))}"


def _apple(state: State) -> str:
    return f"apple {' '.join(_apple_sides(state))}"


def _apple_sides(state: State) -> tuple[str, str]:
    """`39 R`, `66 -`: x of head and apple, and the apple's side, `-` where both are level; the same of y.

    Small models compare what stands side by side: without the numbers before them, half of the sides (102 of 200 in the
    state bank) were right after 1,600 examples, and no apple was eaten. Distances they learn late: by subtraction.
    """
    assert state.apple is not None
    dx, dy = apple_offset(state)
    across = ("R" if dx > 0 else "L") if dx else "-"
    along = ("U" if dy > 0 else "D") if dy else "-"
    x, y = (render_cell(pair, state.grid_size) for pair in zip(state.head, state.apple, strict=True))
    return f"{x} {across}", f"{y} {along}"


# Claims

_CELL = re.compile(r"(?<!\S)([UDLR])(?=\d| [a-z])(\d*(?: (?:wall|block|apple|neck|tail|body))?)(?=[ .]|$)")
_OK = re.compile(r"(?<!\S)ok((?: [UDLR])*)(?=\.|$)")
_STEP_TO_PLACE = re.compile(rf" ([UDLR])([{re.escape(SIGNS)}]+)")
_SIDES = re.compile(r"(?<!\S)apple (\d+ [LR-]) (\d+ [UD-])(?=\.|$)")


def _check_claims(state: State, reply: str) -> Iterator[Claim]:
    """Yield a claim for each direction, one for the legal moves, one for each side of the apple, one for each cell of
    the path."""
    if plan := PLAN.search(reply):
        reply = reply[: plan.start()]
    ok, moves = _OK.search(reply), reply.find(MOVES)
    moves = moves if moves >= 0 else len(reply)
    for match in _CELL.finditer(reply, 0, ok.start() if ok else moves):
        yield Claim(*match.span(), _what_is_there(state, BY_LETTER[match[1]]) == match[2])
    if ok:
        yield Claim(*ok.span(), sorted(ok[1].split()) == sorted(move.value[0] for move in legal_moves(state)))
    if apple := _SIDES.search(reply):
        for i, side in enumerate(_apple_sides(state), start=1):
            yield Claim(*apple.span(i), apple[i] == side)
    here: Cell | None = state.head
    for match in _STEP_TO_PLACE.finditer(reply, moves):
        here = None if here is None else destination(state, here, BY_LETTER[match[1]])
        names = () if here is None else (render_cell(here, state.grid_size), render_place(here, state.grid_size))
        yield Claim(*match.span(), match[2] in names)


STYLES = {
    "compact": Style(body_prompt, read_body_prompt, compact_completion, _check_claims),
    "move": Style(body_prompt, read_body_prompt, _move_completion, _check_claims),
    "facts": Style(body_prompt, read_body_prompt, _facts_completion, _check_claims),
    "path": Style(body_prompt, read_body_prompt, _path_completion, _check_claims),
}
