"""Style turned: symmetric positions look the same, and every move to the apple is found in writing.

The prompt is `grid 4 turn 5 snake f g h l apple c`: head first, in the one of the board's eight turns
(`game.symmetry`) whose cells sort first. A cell is a letter, row by row from `a` at (0, 0); on boards of more than 26
cells its x and y, as in `styles.compact`. So a position and its mirror images differ in the number of the turn alone.

The completion says of every move of the teacher's to the apple, `MAX_MOVES` at most, which cells the head may enter
and which it does, on the board shown, and by which move of the board that is played; then the moves once more:
`free b e so b R, a c so c D. Moves: R D`
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from snake_dist.game.board import MODES, Cell, Move, State
from snake_dist.game.rules import legal_moves, step
from snake_dist.game.symmetry import inverse, lowest_turn, transform_cell
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.compact import BY_LETTER, MAX_MOVES, MOVES, render_cell
from snake_dist.styles.style import Claim, Shown, Style, is_start

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OPENING = "free "


def _name(state: State, cell: Cell, turn: int) -> str:
    """Return how a cell of the played board is called on the board shown."""
    x, y = transform_cell(cell, state.grid_size, turn)
    number = y * state.grid_size + x
    return _LETTERS[number] if state.grid_size**2 <= len(_LETTERS) else render_cell((x, y), state.grid_size)


def _cell(name: str, grid_size: int, turn: int) -> Cell:
    """Undo `_name`."""
    if name in _LETTERS:
        y, x = divmod(_LETTERS.index(name), grid_size)
    else:
        half = len(name) // 2
        x, y = int(name[:half]), int(name[half:])
    return transform_cell((x, y), grid_size, inverse(turn))


# Prompts


def _prompt(state: State, apple: Cell) -> str:
    turn = lowest_turn(state)
    mode = "" if state.mode == "classic" else f"{state.mode} "
    snake = " ".join(_name(state, cell, turn) for cell in state.body)
    blocks = " ".join(sorted(_name(state, cell, turn) for cell in state.obstacles))
    shown = f" blocks {blocks or '-'}" if state.mode == "obstacles" else ""
    return f"{mode}grid {state.grid_size} turn {turn} snake {snake} apple {_name(state, apple, turn)}{shown}"


_PROMPT = re.compile(
    rf"(?:(?P<mode>{'|'.join(MODES[1:])}) )?grid (?P<size>\d+) turn (?P<turn>[0-7]) snake (?P<snake>\w+(?: \w+)*)"
    r" apple \w+(?: blocks (?:-|\w+(?: \w+)*))?\Z"
)


def _read_prompt(prompt: str) -> Shown | None:
    match = _PROMPT.match(prompt)
    if match is None:
        return None
    size, snake = int(match["size"]), match["snake"].split()
    head = _cell(snake[0], size, int(match["turn"]))
    return Shown(size, match["mode"] or "classic", is_start(head, len(snake), size))


# Completions


def _completion(state: State, move: Move, policy: str) -> str:
    turn, now = lowest_turn(state), state
    thought: list[str] = []
    walked: list[str] = []
    while now.end is None and now.score == state.score and len(walked) < MAX_MOVES:
        taken = POLICIES[policy](now) if walked else move
        free = _free(now, turn)
        now = step(now, taken)
        walked.append(taken.value[0])
        thought.append(f"{free} so {_name(now, now.head, turn)} {walked[-1]}")
    return f"{_OPENING}{', '.join(thought)}. {MOVES} {' '.join(walked)}"


def _free(state: State, turn: int) -> str:
    """Return the cells that legal moves lead to, sorted."""
    reached = dict(state.neighbors[state.head])
    return " ".join(sorted(_name(state, reached[move], turn) for move in legal_moves(state)))


# Claims

_STEP = re.compile(
    r"(?:(?<=free )|(?<=, ))(?P<free>\w+(?: \w+){0,3}) (?P<so>so (?P<to>\w+) (?P<letter>[UDLR]))(?=[,.]|$)"
)
_MOVES = re.compile(rf"{MOVES} (?P<letters>[UDLR](?: [UDLR])*)")


def _check_claims(state: State, reply: str) -> Iterator[Claim]:
    """Yield two claims for each move: the cells that are free for it, and that it leads to the cell named; then one for
    the moves, that they are those named before."""
    if not reply.startswith(_OPENING):
        return
    turn = lowest_turn(state)
    now: State | None = state  # None: behind a move that could not be made
    named = []
    for match in _STEP.finditer(reply):
        now = now if now is not None and now.end is None and now.score == state.score else None
        yield Claim(*match.span("free"), now is not None and match["free"] == _free(now, turn))
        move = BY_LETTER[match["letter"]]
        now = step(now, move) if now and move in legal_moves(now) else None
        yield Claim(*match.span("so"), now is not None and match["to"] == _name(now, now.head, turn))
        named.append(match["letter"])
    if moves := _MOVES.search(reply):
        yield Claim(*moves.span(), moves["letters"].split() == named)


STYLES = {"turned": Style(_prompt, _read_prompt, _completion, _check_claims, teacher="optimal")}
