"""The protocol of players: a player sees positions and answers each with a text, in batches or in a conversation.

Heuristics answer in text too, so that every player goes through the same strict `parse_reply`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

from snake_dist.game.board import Move, State


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply with its prompt and its length."""

    text: str
    """The reply, unjudged."""
    prompt: str | None = None
    """The text that the player saw; None if it looks at the board itself."""
    num_tokens: int | None = None
    """Tokens of the reply, the stop token included; None for a player without tokens."""


class Player(Protocol):
    """Anything with `replies`; every position that it is asked about is of a running game."""

    def replies(self, states: Sequence[State]) -> list[str]:
        """Return one reply for each state, in order; the caller judges them."""
        ...


@runtime_checkable
class AnsweringPlayer(Player, Protocol):
    """A player that also reports its prompts and the lengths of its replies."""

    def answers(self, states: Sequence[State]) -> list[Answer]:
        """Return one answer for each state, in order; their texts are those of `replies`."""
        ...


class Conversation(Protocol):
    """Questions under way: a game that has its answer may ask again while others still wait."""

    def ask(self, game: int, state: State) -> None:
        """Ask about a state of `game`, which comes back with the answer; one question a game is open at a time."""
        ...

    def answered(self) -> list[tuple[int, Answer]]:
        """Return at least one answer, if any question is open."""
        ...


@runtime_checkable
class ConversingPlayer(Player, Protocol):
    """A player that takes the next questions before it has answered all earlier ones."""

    def conversation(self) -> AbstractContextManager[Conversation]:
        """Open a conversation; until it is closed the player answers nobody else."""
        ...


class Rounds:
    """A conversation with a player that answers all open questions at once."""

    def __init__(self, answers: Callable[[Sequence[State]], list[Answer]]) -> None:
        """`answers` returns one answer for each state, in order."""
        self._answers = answers
        self._asked: dict[int, State] = {}

    def ask(self, game: int, state: State) -> None:
        self._asked[game] = state

    def answered(self) -> list[tuple[int, Answer]]:
        asked, self._asked = self._asked, {}
        return list(zip(asked, self._answers(list(asked.values())), strict=True))


def converse(player: Player) -> AbstractContextManager[Conversation]:
    """Return the player's own conversation, or one of rounds."""
    if isinstance(player, ConversingPlayer):
        return player.conversation()
    return nullcontext(Rounds(partial(answer_all, player)))


def answer_all(player: Player, states: Sequence[State]) -> list[Answer]:
    """Return the player's answers, with their prompts and lengths if the player reports them."""
    if isinstance(player, AnsweringPlayer):
        return player.answers(states)
    return [Answer(text) for text in player.replies(states)]


@dataclass(frozen=True)
class HeuristicPlayer:
    """A policy of `heuristics.policies` that replies with the bare name of its move."""

    policy: Callable[[State], Move]

    def replies(self, states: Sequence[State]) -> list[str]:
        return [self.policy(state).value for state in states]
