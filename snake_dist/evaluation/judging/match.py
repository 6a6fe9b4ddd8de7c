"""Judge models by playing: the same games and the same unseen positions for each, beside the heuristics."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from snake_dist.errors import InputError, check_at_least
from snake_dist.evaluation.judging.episodes import Episode, game_seeds, play_games
from snake_dist.evaluation.judging.game_log import GameLog, Header
from snake_dist.evaluation.judging.metrics import gains, summarize
from snake_dist.evaluation.judging.state_bank import build_bank, score_bank
from snake_dist.evaluation.players.protocol import HeuristicPlayer, Player
from snake_dist.game.board import State
from snake_dist.heuristics.policies import POLICIES

YARDSTICKS = ("random-legal", "greedy", "bfs", "bfs-safe")
"""Heuristics that play the same games as the model."""
NUM_BANK_STATES = 40
NO_STEP_LIMIT = 10**9


@dataclass(frozen=True)
class PlayConfig:
    """The games that judge the model, in training and at the end."""

    play_games: int = 20
    """Held-out games for base and adapter each at the end; 0 skips them."""
    play_max_steps: int = 25
    """A game that has made so many moves is stopped and counted as step_cap; 0: no limit."""
    eval_games: int = 4
    """Games on the seeds for development that an evaluation in training plays; 0: none."""
    play_every: int = 500
    """Steps between evaluations (--eval-every) that play --eval-games; 0: each of them does."""
    grid_size: int | None = None
    """N of the N x N board; default: that of the training data, 10 for generated data."""
    mode: Literal["auto", "classic", "wrap", "obstacles"] = "auto"
    """Rules of the board; auto: those of the training data, classic for generated data."""
    style: Literal["auto", "sentence", "board", "short", "compact", "move", "facts", "path", "cycle"] = "auto"
    """How a position is put to the model; auto: as in the training data, compact for generated data."""


def check_play_config(config: PlayConfig) -> None:
    """Raise InputError for values that no games can have."""
    check_at_least(config, play_games=0, play_max_steps=0, eval_games=0, play_every=0)
    game_seeds(config.play_games)
    game_seeds(config.eval_games, "dev")


@dataclass(frozen=True)
class Games:
    """What is played: the same for every player of a comparison."""

    grid_size: int
    mode: str
    seeds: range
    max_steps: int
    """0: no limit."""
    symmetry: int = 0
    """How the board is turned for the players (`game.symmetry`)."""

    def play(
        self,
        player: Player,
        batch_size: int | None = None,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        log: GameLog | None = None,
        finished: Mapping[int, Episode] | None = None,
    ) -> list[Episode]:
        """The player's games, all at once unless `batch_size` says how many. Not played are those in `finished`, by
        seed; by default those that `log` holds."""
        if finished is None:
            finished = {} if log is None else log.finished
        missing = [seed for seed in self.seeds if seed not in finished]
        played = play_games(
            player,
            self.grid_size,
            self.mode,
            missing,
            self.max_steps or NO_STEP_LIMIT,
            batch_size or max(1, len(missing)),
            None if on_progress is None else _counted_from(len(self.seeds) - len(missing), on_progress),
            on_finished=None if log is None else log.append,
            symmetry=self.symmetry,
        )
        by_seed = {**finished, **{episode.seed: episode for episode in played}}
        return [by_seed[seed] for seed in self.seeds]

    def log(self, directory: Path, name: str, kind: str, identity: str) -> GameLog:
        """The log of one player of this comparison, `directory/NAME.jsonl`. Raises InputError; see `GameLog`."""
        header = Header(name, kind, identity, self.grid_size, self.mode, self.max_steps, self.symmetry)
        return GameLog(self.log_path(directory, name), header)

    def log_path(self, directory: Path, name: str) -> Path:
        return directory / f"{re.sub('[^A-Za-z0-9._-]+', '-', name)}.jsonl"

    def settings(self) -> dict[str, Any]:
        """What report.json says of the games."""
        return {
            "grid_size": self.grid_size,
            "mode": self.mode,
            "max_steps": self.max_steps,
            "symmetry": self.symmetry,
            "first_seed": self.seeds[0],
            "games": len(self.seeds),
        }


def judge(
    players: Mapping[str, Player],
    games: Games,
    *,
    identities: Mapping[str, str],
    is_trained: Callable[[State], bool],
    on_progress: Callable[[str, int, int], None],
    log_directory: Path | None,
    finished: Mapping[str, Mapping[int, Episode]] = MappingProxyType({}),
) -> dict[str, Any]:
    """{"players": {name: summary}, "gain_over_base": ..., "state_bank": {name: rates}}, with the yardsticks' games.

    `is_trained` says whether a state was trained on; such states are left out of the bank, which is not asked
    if none is left. `on_progress(player name, games finished, moves so far)` is called after every round.
    Games are logged in `log_directory`, if there is one, under the players' `identities`; those in `finished`
    (see `finished_games`), by player and seed, are not played again.
    """
    everybody = dict(players) | {name: HeuristicPlayer(POLICIES[name]) for name in YARDSTICKS}
    episodes, bank_scores = {}, {}
    bank = build_bank(games.grid_size, games.mode, NUM_BANK_STATES, "test", is_trained)
    for name, kind, identity in _kinds(identities):
        player = everybody[name]
        progress = partial(on_progress, name) if kind == "model" else None
        with nullcontext() if log_directory is None else games.log(log_directory, name, kind, identity) as log:
            episodes[name] = games.play(player, on_progress=progress, log=log, finished=finished.get(name, {}))
        if bank and kind == "model":
            bank_scores[name] = score_bank(player, bank)
    return {
        "players": {name: summarize(played) for name, played in episodes.items()},
        "gain_over_base": gains(episodes, "base") if "base" in players else {},
        "state_bank": bank_scores,
    }


def finished_games(games: Games, identities: Mapping[str, str], log_directory: Path) -> dict[str, dict[int, Episode]]:
    """What a judge that was interrupted has logged, by player and seed. Logs of other weights, of games under other
    conditions, and damaged ones are removed."""
    found = {}
    for name, kind, identity in _kinds(identities):
        try:
            with games.log(log_directory, name, kind, identity) as log:
                found[name] = log.finished
        except InputError:
            games.log_path(log_directory, name).unlink()
    return found


def _kinds(identities: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, kind, identity) of all players of a run's judge."""
    models = [(name, "model", identity) for name, identity in identities.items()]
    return models + [(name, "heuristic", name) for name in YARDSTICKS]


def _counted_from(already: int, on_progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda finished, moves: on_progress(already + finished, moves)
