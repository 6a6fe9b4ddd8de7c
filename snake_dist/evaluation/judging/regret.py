"""What moves cost against perfect play, on boards that are solved (`heuristics/optimal.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TypedDict

from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.intervals import Rate, game_rate_interval, rate_entry
from snake_dist.game.board import Move
from snake_dist.game.rules import fatal_reason, new_game, step
from snake_dist.heuristics.optimal import TOLERANCE, is_solved, move_costs


class Regret(TypedDict):
    """Of the legal moves from which the board could still be filled for certain."""

    mean_steps: float | None
    """Expected steps that a move costs beyond the best one, over those after which it still can be."""
    optimal_rate: Rate
    """Moves that cost nothing / moves."""
    losing_rate: Rate
    """Moves after which it no longer can be / moves."""


def regret_of(episodes: Sequence[Episode]) -> Regret | None:
    """Return the regret of one player's games; None on boards that are not solved."""
    if not is_solved(episodes[0].grid_size, episodes[0].mode):
        return None
    games = [found for episode in episodes if (found := _regrets(episode))]
    kept = [value for game in games for value in game if math.isfinite(value)]
    return {
        "mean_steps": fmean(kept) if kept else None,
        "optimal_rate": _share(games, lambda value: value <= TOLERANCE),
        "losing_rate": _share(games, math.isinf),
    }


def _regrets(episode: Episode) -> list[float]:
    """Return the regret of each of the moves in steps, infinite for one that gives certainty away."""
    state, found = new_game(episode.grid_size, episode.seed, episode.mode), []
    for name in episode.moves:
        move = Move(name)
        if fatal_reason(state, move) is not None:
            break
        costs = move_costs(state)
        least = min(costs.values())
        if math.isinf(least):
            break
        found.append(costs[move] - least)
        state = step(state, move)
    return found


def _share(games: list[list[float]], counts: Callable[[float], bool]) -> Rate:
    good, n = [sum(map(counts, game)) for game in games], [len(game) for game in games]
    return rate_entry(sum(good), sum(n), game_rate_interval(good, n))
