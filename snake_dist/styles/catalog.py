"""All styles by name, and the text of a position in any of them.

Training data and players write prompts with the same function, so the two cannot drift apart. `docs/data.md` shows an
example of each style. A new style is an entry of `STYLES` in its family's file (`compact.py`, say); a new family is a
new file, named below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from snake_dist.errors import InputError
from snake_dist.game.board import Move, State
from snake_dist.game.rules import fatal_reason
from snake_dist.heuristics.policies import plays_on
from snake_dist.styles import compact, cycle, roads, turned, v004, ways
from snake_dist.styles.style import Claim, Shown, Style

STYLES: dict[str, Style] = v004.STYLES | compact.STYLES | cycle.STYLES | roads.STYLES | turned.STYLES | ways.STYLES


def check_style(style: str) -> None:
    """Raise InputError unless `style` is one of `STYLES`."""
    if style not in STYLES:
        raise InputError(f"unknown style {style!r}: choose from {', '.join(STYLES)}")


def check_teacher(style: str, policy: str) -> None:
    """Raise InputError unless the moves of `policy` can be taught in `style`, one of `STYLES`."""
    teacher = STYLES[style].teacher
    if STYLES[style].on_cycle and policy != teacher:
        raise InputError(f"--style {style} needs --policy {teacher}: got {policy}")


def teacher_on(style: str, grid_size: int, mode: str) -> str:
    """Return the policy that teaches in this style on such boards: the style's own, or bfs-safe where that cannot."""
    teacher = STYLES[style].teacher
    return teacher if plays_on(teacher, grid_size, mode) else "bfs-safe"


def prompt_style(style: str) -> str:
    """Return the first style that writes the same prompts: `compact` for `move`."""
    return next(name for name in STYLES if STYLES[name].render_prompt is STYLES[style].render_prompt)


PROMPT_STYLES = tuple(dict.fromkeys(map(prompt_style, STYLES)))
"""One style for each form of the prompt."""

if TYPE_CHECKING:
    StyleName = str
    StyleOrAuto = str
    PromptStyleName = str
else:  # flags list their choices by these
    StyleName = Literal[tuple(STYLES)]
    StyleOrAuto = Literal["auto", StyleName]
    PromptStyleName = Literal[PROMPT_STYLES]


def render_prompt(state: State, style: str) -> str:
    """Return what a player is shown. Raises InputError for an unknown style, ValueError for a full board."""
    check_style(style)
    if state.apple is None:
        raise ValueError("a full board has no apple and no next move to ask for")
    return STYLES[style].render_prompt(state, state.apple)


def read_prompt(prompt: str) -> tuple[str, Shown] | None:
    """Return the style of a prompt, one of `PROMPT_STYLES`, and what it shows; None if no style writes such prompts."""
    prompt = prompt.strip()
    read = ((style, STYLES[style].read_prompt(prompt)) for style in PROMPT_STYLES)
    return next(((style, shown) for style, shown in read if shown is not None), None)


def render_completion(state: State, move: Move, style: str, policy: str) -> str:
    """Return the text that teaches `move`, chosen by `policy` in `state`. Every claim in it is true of the state.

    Raises InputError for an unknown style; ValueError for a full board, a fatal move, and a move that a style that is
    `on_cycle` cannot teach.
    """
    check_style(style)
    if state.apple is None or fatal_reason(state, move) is not None:
        raise ValueError(f"{move.value} is no move to teach: the board is full or the move fatal")
    return STYLES[style].render_completion(state, move, policy)


def check_claims(state: State, reply: str) -> tuple[Claim, ...]:
    """Return the claims of a reply about `state`, a running game's, in the order of the text.

    They are those that `render_completion` makes, in the words of any style and with the same meaning. A reply may make
    some of them, all or none; text in any other form makes no claim that is counted.
    """
    checks = dict.fromkeys(style.check_claims for style in STYLES.values())
    claims = [claim for check in checks for claim in check(state, reply)]
    return tuple(sorted(claims, key=lambda claim: claim.start))
