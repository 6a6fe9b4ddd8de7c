"""A player spread over ranks: each rank answers for a part of the games, and every rank gets all answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from snake_dist.evaluation.players.protocol import Answer, Conversation, Player, answer_all, converse
from snake_dist.game.board import State

SHARE_OF_ANSWERS = 1 / 8
"""A rank answers this share of its games before the ranks exchange answers; finished rows stand still until then."""

Answers = list[tuple[int, Answer]]


def _alone(work: Callable[[], Any]) -> Any:
    return work()


@dataclass(frozen=True)
class Ranks:
    """The processes that play a comparison together; by default there is one."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Answers], list[Answers]] | None = None
    """Collective: returns the answers of all ranks, in rank order, on every rank. None: there is one process."""
    agree: Callable[[Callable[[], Any]], Any] = _alone
    """Collective: does the work on rank 0 alone and returns its value, or raises its InputError, on every rank."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def spread(self, player: Player) -> Player:
        """Return the player with its work spread over all ranks."""
        return player if self.gather is None else SpreadPlayer(player, self.rank, self.size, self.gather)


@dataclass(frozen=True)
class SpreadPlayer:
    """A player of which each rank answers every `world_size`-th game."""

    player: Player
    rank: int
    world_size: int
    gather: Callable[[Answers], list[Answers]]
    """See `Ranks.gather`."""

    def replies(self, states: Sequence[State]) -> list[str]:
        mine = range(self.rank, len(states), self.world_size)
        answers = answer_all(self.player, [states[i] for i in mine])
        parts = self.gather(list(zip(mine, answers, strict=True)))
        texts = {i: answer.text for part in parts for i, answer in part}
        return [texts[i] for i in range(len(states))]

    @contextmanager
    def conversation(self) -> Iterator[Conversation]:
        with converse(self.player) as own:
            yield _SpreadConversation(self, own)


class _SpreadConversation:
    """A conversation of all ranks: every rank asks about every game, in the same order."""

    def __init__(self, player: SpreadPlayer, own: Conversation) -> None:
        self._player, self._own = player, own
        self._num_asked = 0

    def ask(self, game: int, state: State) -> None:
        if game % self._player.world_size == self._player.rank:
            self._own.ask(game, state)
            self._num_asked += 1

    def answered(self) -> Answers:
        # The ranks wait for each other here: each with a share of its answers, not with every single one.
        mine: Answers = []
        while len(mine) < self._num_asked * SHARE_OF_ANSWERS:
            mine += self._own.answered()
        self._num_asked -= len(mine)
        return [answer for part in self._player.gather(mine) for answer in part]
