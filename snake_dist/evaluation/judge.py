"""Judge models by playing: the same games and the same unseen positions for each, beside the heuristics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from snake_dist.errors import InputError
from snake_dist.evaluation.episodes import game_seeds, play_games
from snake_dist.evaluation.player import HeuristicPlayer, Player
from snake_dist.evaluation.report import summarize
from snake_dist.evaluation.state_bank import build_bank, score_bank
from snake_dist.game.board import State
from snake_dist.heuristics.policies import POLICIES

YARDSTICKS = ("random-legal", "greedy", "bfs", "bfs-safe")
"""Heuristics that play the same games as the model."""
NUM_BANK_STATES = 40
NO_STEP_LIMIT = 10**9


@dataclass(frozen=True)
class PlayConfig:
    """The games that judge the result."""

    play_games: int = 20
    """Held-out games for base and adapter each at the end; 0 skips them."""
    play_max_steps: int = 25
    """A game that has made so many moves is stopped and counted as step_cap; 0: no limit."""
    grid_size: int | None = None
    """N of the N x N board; default: that of the training data, 10 for generated data."""
    mode: Literal["auto", "classic", "wrap", "obstacles"] = "auto"
    """Rules of the board; auto: those of the training data, classic for generated data."""
    style: Literal["auto", "sentence", "board", "short", "compact"] = "auto"
    """How a position is put to the model; auto: as in the training data, compact for generated data."""


def check_play_config(config: PlayConfig) -> None:
    """Raise InputError for values that no games can have."""
    if config.play_games < 0:
        raise InputError(f"--play-games {config.play_games}: at least 0")
    if config.play_max_steps < 0:
        raise InputError(f"--play-max-steps {config.play_max_steps}: at least 0")
    game_seeds(config.play_games)


@dataclass(frozen=True)
class SpreadPlayer:
    """A player whose work is spread over ranks: each answers every n-th state, and all get all replies."""

    player: Player
    rank: int
    world_size: int
    gather: Callable[[list[str]], list[list[str]]]
    """Collective: the lists of all ranks, in rank order, on every rank."""

    def replies(self, states: Sequence[State]) -> list[str]:
        parts = self.gather(self.player.replies(states[self.rank :: self.world_size]))
        return [parts[i % self.world_size][i // self.world_size] for i in range(len(states))]


@dataclass(frozen=True)
class Games:
    """What is played: the same for every player of a comparison."""

    grid_size: int
    mode: str
    seeds: range
    max_steps: int

    def play(self, player: Player, on_progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """`report.summarize` of the player's games."""
        started = time.perf_counter()
        limit = self.max_steps or NO_STEP_LIMIT
        episodes = play_games(
            player, self.grid_size, self.mode, self.seeds, limit, max(1, len(self.seeds)), on_progress
        )
        return summarize(episodes, time.perf_counter() - started)


def judge(
    players: Mapping[str, Player],
    games: Games,
    *,
    is_trained: Callable[[State], bool],
    on_progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """{"players": {name: summary}, "state_bank": {name: rates}} for players and, in games, the yardsticks.

    `is_trained` says whether a state was trained on; such states are left out of the bank, which is not asked
    if none is left.
    `on_progress(player name, games finished, replies so far)` is called after every round.
    """
    summaries, bank_scores = {}, {}
    bank = build_bank(games.grid_size, games.mode, NUM_BANK_STATES, "test", is_trained)
    for name, player in players.items():
        summaries[name] = games.play(player, partial(on_progress, name))
        if bank:
            bank_scores[name] = score_bank(player, bank)
    for name in YARDSTICKS:
        summaries[name] = games.play(HeuristicPlayer(POLICIES[name]))
    return {"players": summaries, "state_bank": bank_scores}
