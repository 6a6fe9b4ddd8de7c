"""The numbers of finished games, under stable names that docs/metrics.md defines."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import TypedDict

from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.intervals import (
    Gain,
    Mean,
    Rate,
    as_json,
    bootstrap_mean_interval,
    game_rate_interval,
    paired_gain,
    quantile,
    rate,
    rate_entry,
)
from snake_dist.evaluation.judging.regret import Regret, regret_of
from snake_dist.game.board import Cell, End

LENGTH_EDGES = (0, 5, 10, 20, 40, 80)
"""Snake lengths that bound the buckets of `steps_per_apple_by_length`; the last bucket is open."""
LENGTH_BUCKETS = (*(f"{low + 1}-{high}" for low, high in pairwise(LENGTH_EDGES)), f"{LENGTH_EDGES[-1] + 1}+")
"""Their names."""


class Apples(TypedDict):
    """Apples per game."""

    mean: float
    ci95: list[float] | None
    median: float
    p5: float
    max: int


class Steps(TypedDict):
    """Moves per game."""

    mean: float


class PlayerSummary(TypedDict):
    """The numbers of one player's games under their names in report.json; docs/metrics.md."""

    games: int
    apples: Apples
    coverage: Mean
    fill_rate: Rate
    starved_rate: Rate
    legal_move_rate: Rate
    format_valid_rate: Rate
    claims_true_rate: Rate
    ends: dict[str, int]
    end_shares: dict[str, float]
    steps: Steps
    steps_per_apple: float | None
    steps_to_fill: Mean
    steps_per_apple_by_length: dict[str, float | None]
    path_efficiency: float | None
    regret: Regret | None
    moves_per_reply: float | None
    tokens_per_move: float | None
    ms_per_move: float | None
    moves_per_second: float | None


def summarize(episodes: Sequence[Episode]) -> PlayerSummary:
    """Return the numbers of one player's games, as JSON.

    `ends` names every reason, also those of 0 games, and sums to `games`. A rate is pooled over all moves or
    replies of all games; see `game_rate_interval` for its interval. Raises ValueError without episodes.
    """
    if not episodes:
        raise ValueError("there is no episode to summarize")
    n = len(episodes)
    apples = [episode.score for episode in episodes]
    replies = [episode.num_replies for episode in episodes]
    steps = sum(episode.steps for episode in episodes)
    filled = [episode.steps for episode in episodes if episode.end == End.BOARD_FULL.value]
    ends = Counter(episode.end for episode in episodes)
    coverage = [_coverage(episode) for episode in episodes]
    claims = [[claim.true for reply in episode.claims for claim in reply] for episode in episodes]
    decisions = [episode.num_decisions for episode in episodes]
    ms_per_move = _per_move(episodes, [episode.ms for episode in episodes])
    valid = [episode.num_valid_format for episode in episodes]
    return {
        "games": n,
        "apples": {
            "mean": fmean(apples),
            "ci95": as_json(bootstrap_mean_interval(apples)),
            "median": median(apples),
            "p5": quantile(apples, 0.05),
            "max": max(apples),
        },
        "coverage": {"mean": fmean(coverage), "ci95": as_json(bootstrap_mean_interval(coverage))},
        "fill_rate": rate(ends[End.BOARD_FULL.value], n),
        "starved_rate": rate(ends[End.STARVED.value], n),
        "legal_move_rate": _pooled([episode.num_legal for episode in episodes], decisions),
        "format_valid_rate": _pooled(valid, replies),
        "claims_true_rate": _pooled([sum(game) for game in claims], [len(game) for game in claims]),
        "ends": {end.value: ends[end.value] for end in End},
        "end_shares": {end.value: ends[end.value] / n for end in End},
        "steps": {"mean": steps / n},
        "steps_per_apple": steps / sum(apples) if any(apples) else None,
        "steps_to_fill": {
            "mean": fmean(filled) if filled else None,
            "ci95": as_json(bootstrap_mean_interval(filled)),
        },
        "steps_per_apple_by_length": _steps_by_length(episodes),
        "path_efficiency": _path_efficiency(episodes),
        "regret": regret_of(episodes),
        "moves_per_reply": sum(len(episode.moves) for episode in episodes) / sum(valid) if any(valid) else None,
        "tokens_per_move": _per_move(episodes, [episode.tokens or () for episode in episodes]),
        "ms_per_move": ms_per_move,
        "moves_per_second": 1000 / ms_per_move if ms_per_move else None,
    }


def gain_over(base: Sequence[Episode], episodes: Sequence[Episode]) -> Gain | None:
    """Return the gain over the base in apples per game, on the seeds that both have played; None without any."""
    ours, theirs = ({episode.seed: episode.score for episode in games} for games in (episodes, base))
    both = sorted(ours.keys() & theirs.keys())
    return paired_gain([ours[seed] for seed in both], [theirs[seed] for seed in both]) if both else None


def _coverage(episode: Episode) -> float:
    """Return the share of the open cells that the snake covers at the end."""
    return (episode.score + 1) / (episode.grid_size**2 - len(episode.obstacles))


def _apple_walks(episode: Episode) -> list[tuple[int, int, int]]:
    """Return (snake length before, moves made, moves needed on an empty board) for each apple eaten."""
    centre = (episode.grid_size // 2, episode.grid_size // 2)
    heads = (centre, *episode.apples)  # the head is where the last apple was
    started = (0, *episode.eaten_at)
    return [
        (i + 1, end - begin, _distance(episode, heads[i], heads[i + 1]))
        for i, (begin, end) in enumerate(pairwise(started))
    ]


def _distance(episode: Episode, a: Cell, b: Cell) -> int:
    gaps = [abs(p - q) for p, q in zip(a, b, strict=True)]
    return sum(min(gap, episode.grid_size - gap) if episode.mode == "wrap" else gap for gap in gaps)


def _steps_by_length(episodes: Sequence[Episode]) -> dict[str, float | None]:
    walks = [(length, steps) for episode in episodes for length, steps, _ in _apple_walks(episode)]
    means: dict[str, float | None] = {}
    for i, name in enumerate(LENGTH_BUCKETS):
        inside = [steps for length, steps in walks if length_bucket(length) == i]
        means[name] = fmean(inside) if inside else None
    return means


def length_bucket(length: int) -> int:
    """Return the index in LENGTH_BUCKETS of a snake's length."""
    return bisect_left(LENGTH_EDGES, length) - 1


def _path_efficiency(episodes: Sequence[Episode]) -> float | None:
    walks = [walk for episode in episodes for walk in _apple_walks(episode)]
    return sum(bound for *_, bound in walks) / sum(steps for _, steps, _ in walks) if walks else None


def _pooled(successes: Sequence[int], trials: Sequence[int]) -> Rate:
    """Return a rate over all trials; games without a trial do not count."""
    asked = [(good, n) for good, n in zip(successes, trials, strict=True) if n]
    good, n = [g for g, _ in asked], [n for _, n in asked]
    return rate_entry(sum(good), sum(n), game_rate_interval(good, n))


def _per_move(episodes: Sequence[Episode], columns: Sequence[Sequence[float]]) -> float | None:
    """Return the cost of all replies / decisions of the games with costs; see `Episode.num_decisions`."""
    num_moves = sum(episode.num_decisions for episode, column in zip(episodes, columns, strict=True) if column)
    return sum(map(sum, columns)) / num_moves if num_moves else None
