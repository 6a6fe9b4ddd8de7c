"""Players: whoever is shown positions and answers each with a text, in batches or in a conversation.

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
    """A reply and how it came about."""

    text: str
    """What the player said; judged by the caller."""
    prompt: str | None = None
    """What it was shown; None if it looks at the board itself."""
    num_tokens: int | None = None
    """Tokens it took, the stop token included; None if there are none."""


class Player(Protocol):
    """Anything with `replies`; a position it is asked about is always of a running game."""

    def replies(self, states: Sequence[State]) -> list[str]:
        """One reply for each state, in order. What the replies say is judged by the caller."""
        ...


@runtime_checkable
class AnsweringPlayer(Player, Protocol):
    """A player that can also say what it was shown and how many tokens it took."""

    def answers(self, states: Sequence[State]) -> list[Answer]:
        """One answer for each state, in order; their texts are what `replies` gives."""
        ...


class Conversation(Protocol):
    """Questions under way; what is answered first may be asked again while others are still thought about."""

    def ask(self, game: int, state: State) -> None:
        """`game` comes back with the answer; it is asked about nothing else until then."""
        ...

    def answered(self) -> list[tuple[int, Answer]]:
        """At least one answer, if anything was asked that has none yet."""
        ...


@runtime_checkable
class ConversingPlayer(Player, Protocol):
    """A player that need not answer all positions before it is asked about the next ones."""

    def conversation(self) -> AbstractContextManager[Conversation]:
        """Inside, the player answers nobody else."""
        ...


class Rounds:
    """A conversation with a player that answers all that it was asked at once."""

    def __init__(self, answers: Callable[[Sequence[State]], list[Answer]]) -> None:
        """`answers`: one for each state, in order."""
        self._answers = answers
        self._asked: dict[int, State] = {}

    def ask(self, game: int, state: State) -> None:
        self._asked[game] = state

    def answered(self) -> list[tuple[int, Answer]]:
        asked, self._asked = self._asked, {}
        return list(zip(asked, self._answers(list(asked.values())), strict=True))


def converse(player: Player) -> AbstractContextManager[Conversation]:
    """The player's own conversation, or one of rounds."""
    if isinstance(player, ConversingPlayer):
        return player.conversation()
    return nullcontext(Rounds(partial(answer_all, player)))


def answer_all(player: Player, states: Sequence[State]) -> list[Answer]:
    """The player's answers, with as much about each as it can say."""
    if isinstance(player, AnsweringPlayer):
        return player.answers(states)
    return [Answer(text) for text in player.replies(states)]


@dataclass(frozen=True)
class HeuristicPlayer:
    """A policy of `heuristics.POLICIES`; replies with the bare name of its move."""

    policy: Callable[[State], Move]

    def replies(self, states: Sequence[State]) -> list[str]:
        return [self.policy(state).value for state in states]
