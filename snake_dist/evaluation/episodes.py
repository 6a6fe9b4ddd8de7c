"""Plays whole games in lockstep and reports each as plain data.

Replies are parsed strictly. One that names no move ends its game as `invalid_reply`, an illegal move ends it
by the rules; neither is repaired or asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from snake_dist.errors import InputError
from snake_dist.evaluation.player import Player
from snake_dist.game.board import End, Move, State
from snake_dist.game.rules import SEED_RANGES, end_game, fatal_reason, new_game, step
from snake_dist.game.text import parse_reply


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished game. `dataclasses.asdict` gives JSON; grid size, mode, seed and moves replay it."""

    grid_size: int
    mode: str
    seed: int
    score: int
    """Apples eaten."""
    steps: int
    """Moves made, a fatal one included."""
    end: str
    """An `End` value."""
    num_replies: int
    """Replies asked for: `steps`, and one more if the last named no move."""
    num_valid_format: int
    """Replies that named a move."""
    num_legal: int
    """Replies that named a legal move."""
    moves: tuple[str, ...]
    """Names of the moves, a fatal one included."""
    last_reply: str
    """The last reply as it came, for looking at."""


def game_seeds(n: int, range_name: str = "test") -> range:
    """The first `n` seeds of a published range. Raises InputError if there are no such seeds."""
    if range_name not in SEED_RANGES:
        raise InputError(f"unknown seed range {range_name!r}: choose from {', '.join(SEED_RANGES)}")
    if n > len(SEED_RANGES[range_name]):
        raise InputError(f"{n} games: the seed range {range_name!r} has {len(SEED_RANGES[range_name])} seeds")
    return SEED_RANGES[range_name][:n]


def play_games(
    player: Player,
    grid_size: int,
    mode: str,
    seeds: Iterable[int],
    max_steps: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Play one game for each seed, up to `batch_size` at once; finished games make room for the next seed.

    Episodes come in the order of the seeds, and an episode depends on its seed and the player alone: so for a
    player whose replies do not depend on their batch (see `ModelPlayer` for what floating point can change),
    `batch_size` is a matter of speed, and the seeds may be spread over processes and merged by seed.
    A game still alive after `max_steps` moves ends as step_cap. `on_progress(games finished, replies so far)`
    is called after every round. Raises InputError for an impossible size or mode.
    """
    if batch_size < 1 or max_steps < 1:
        raise ValueError(f"batch_size {batch_size} and max_steps {max_steps} must be at least 1")
    waiting = (_Game(seed, new_game(grid_size, seed, mode)) for seed in seeds)
    games: list[_Game] = []
    running: list[_Game] = []
    num_replies = 0
    while True:
        while len(running) < batch_size and (game := next(waiting, None)) is not None:
            games.append(game)
            running.append(game)
        if not running:
            return [game.episode() for game in games]
        replies = player.replies([game.state for game in running])
        for game, reply in zip(running, replies, strict=True):
            game.answer(reply, max_steps)
        num_replies += len(running)
        running = [game for game in running if game.state.end is None]
        if on_progress is not None:
            on_progress(len(games) - len(running), num_replies)


@dataclass(slots=True)
class _Game:
    """A game under way: its state and what has been counted so far."""

    seed: int
    state: State
    num_replies: int = 0
    num_legal: int = 0
    moves: list[Move] = field(default_factory=list)
    last_reply: str = ""

    def answer(self, reply: str, max_steps: int) -> None:
        self.num_replies += 1
        self.last_reply = reply
        move = parse_reply(reply)
        if move is None:
            self.state = end_game(self.state, End.INVALID_REPLY)
            return
        self.moves.append(move)
        self.num_legal += fatal_reason(self.state, move) is None
        self.state = step(self.state, move)
        if self.state.end is None and self.state.steps >= max_steps:
            self.state = end_game(self.state, End.STEP_CAP)

    def episode(self) -> Episode:
        assert self.state.end is not None
        return Episode(
            grid_size=self.state.grid_size,
            mode=self.state.mode,
            seed=self.seed,
            score=self.state.score,
            steps=self.state.steps,
            end=self.state.end.value,
            num_replies=self.num_replies,
            num_valid_format=len(self.moves),
            num_legal=self.num_legal,
            moves=tuple(move.value for move in self.moves),
            last_reply=self.last_reply,
        )
