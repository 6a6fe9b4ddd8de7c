"""What a style is: one way to show a position, to answer it, and to say what of the answer is true."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from snake_dist.game.board import Cell, Move, State


@dataclass(frozen=True, slots=True)
class Shown:
    """What a prompt says of its game."""

    grid_size: int
    mode: str
    starts_game: bool
    """Whether the snake has length 1 and its head at (N // 2, N // 2), as in a new game."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`reply[start:end]` says something about the board."""

    start: int
    end: int
    true: bool


@dataclass(frozen=True)
class Style:
    """How a training line is written. Styles may share any of the functions."""

    render_prompt: Callable[[State, Cell], str]
    """(position, its apple) -> what a player is shown."""
    read_prompt: Callable[[str], Shown | None]
    """A prompt without white space around it -> what it shows; None if this style does not write such prompts."""
    render_completion: Callable[[State, Move, str], str]
    """(position, legal move, name of the policy that chose it) -> the text that teaches the move."""
    check_claims: Callable[[State, str], Iterable[Claim]]
    """(position, reply) -> what the reply says in this style's words, in any order."""
    teacher: str = "bfs-safe"
    """The policy whose moves it teaches, unless another is named."""
    on_cycle: bool = False
    """It speaks of the Hamiltonian cycle: it can teach the moves of `teacher` only, to a snake that lies along it."""


def is_start(head: Cell, length: int, grid_size: int) -> bool:
    """Return whether a snake of this head and length begins a game. One that returns to the start without an apple
    looks the same."""
    return length == 1 and head == (grid_size // 2, grid_size // 2)
