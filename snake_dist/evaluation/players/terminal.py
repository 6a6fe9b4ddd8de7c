"""A human at the terminal, by the same rules as everybody."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from snake_dist.game.board import Move, State
from snake_dist.game.rules import step

KEYS = {
    "\x1b[A": Move.UP, "\x1b[B": Move.DOWN, "\x1b[D": Move.LEFT, "\x1b[C": Move.RIGHT,
    "\x1bOA": Move.UP, "\x1bOB": Move.DOWN, "\x1bOD": Move.LEFT, "\x1bOC": Move.RIGHT,
    "w": Move.UP, "s": Move.DOWN, "a": Move.LEFT, "d": Move.RIGHT,
}  # fmt: skip
"""Arrow keys, as terminals send them, and WASD."""
QUIT = "q"


@dataclass
class TerminalPlayer:
    """Draws the board and waits for a key. Raises KeyboardInterrupt when the human quits."""

    pace_ms: int = 0
    """The snake repeats its move after this many milliseconds, unless the human steers; 0: turn-based."""
    typed: str = ""
    """Keys that were read and not used yet."""
    last: tuple[State, Move] | None = field(default=None, init=False)

    def replies(self, states: Sequence[State]) -> list[str]:
        return [self._move(state).value for state in states]

    def _move(self, state: State) -> Move:
        ended = None if self.last is None or state.steps else step(*self.last)
        result = (
            "" if ended is None else f"last game: {ended.score} apples, {ended.end.value if ended.end else 'stopped'}"
        )
        print(f"\x1b[H\x1b[2J{draw(state)}\n{result}\narrow keys or WASD steer, q stops", flush=True)
        is_moving = state.steps > 0 and self.last is not None
        deadline = time.monotonic() + self.pace_ms / 1000 if self.pace_ms and is_moving else None
        move = self._steered(deadline)
        if move is None:
            assert self.last is not None
            move = self.last[1]
        self.last = state, move
        return move

    def _steered(self, deadline: float | None) -> Move | None:
        """Return the move of the next key; with a deadline, wait for it and return that of the last key, or None."""
        chosen = None
        with _single_keys():
            while True:
                key, self.typed = _split_key(self.typed)
                if key == QUIT:
                    raise KeyboardInterrupt
                chosen = KEYS.get(key, chosen)
                if chosen is not None and deadline is None:
                    return chosen
                if key:
                    continue
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not select.select([sys.stdin], [], [], left)[0]:
                    return chosen
                read = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
                if not read:
                    raise KeyboardInterrupt  # the input has ended
                self.typed += read


def draw(state: State) -> str:
    """Return the board as text: @ head, o body, * apple, # obstacle."""
    n = state.grid_size
    marks = dict.fromkeys(state.obstacles, "#") | dict.fromkeys(state.body, "o") | {state.head: "@"}
    if state.apple is not None:
        marks[state.apple] = "*"
    edge = f"+{'-' * (2 * n + 1)}+"
    rows = [f"| {' '.join(marks.get((x, y), '.') for x in range(n))} |" for y in reversed(range(n))]
    return "\n".join([f"{state.score} apples, {state.steps} moves", edge, *rows, edge])


@contextmanager
def _single_keys() -> Iterator[None]:
    """Read keys one by one without echo, where standard input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSADRAIN)  # the default would throw away keys that were typed ahead
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _split_key(typed: str) -> tuple[str, str]:
    """Return (the first key, the rest); no key where none, or only the beginning of one, was typed."""
    if typed in ("\x1b", "\x1b[", "\x1bO"):
        return "", typed
    length = 3 if typed.startswith(("\x1b[", "\x1bO")) else 1
    return typed[:length], typed[length:]
