"""95 % intervals: Wilson's for rates, the bootstrap for means, both for rates pooled over games, t for runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

CONFIDENCE = 0.95

Interval = tuple[float, float]


class Rate(TypedDict):
    """A rate as reports have it; docs/metrics.md."""

    value: float | None
    ci95: list[float] | None
    n: int


class Mean(TypedDict):
    """A mean as reports have it."""

    mean: float | None
    ci95: list[float] | None


class Gain(TypedDict):
    """A mean difference of pairs as reports have it."""

    mean: float
    ci95: list[float] | None
    n: int
    probability: float | None


def wilson_interval(successes: int, n: int) -> Interval | None:
    """Return Wilson's score interval for a rate of `successes` in `n` independent trials; None for n = 0.

    Formula: Wilson, JASA 22 (1927), without continuity correction. It has a width even for 0 or n successes.
    """
    from scipy.stats import binomtest

    if n == 0:
        return None
    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Return the BCa bootstrap interval (Efron, JASA 82, 1987) of the mean of independent values.

    The same values and seed give the same interval. None for fewer than two values. If all values are equal
    the interval is that value twice: resampling shows no value that the sample lacks.
    """
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return float(values[0]), float(values[0])
    return _bootstrap((values,), lambda sample, axis: sample.mean(axis=axis), "BCa", seed)


def interval_over_runs(runs: Sequence[Sequence[float]]) -> Interval | None:
    """Return the interval of the mean of several training runs, each with one value for each of the same games.

    Student's t interval of the runs' means (Gosset, Biometrika 6, 1908), which knows how few runs there are, and not
    narrower than the bootstrap over games of their mean. With one run it is the bootstrap alone, which says nothing of
    other training seeds. None for one run with one game.
    """
    from scipy.stats import ttest_1samp

    over_games = bootstrap_mean_interval([sum(game) / len(game) for game in zip(*runs, strict=True)])
    means = [sum(run) / len(run) for run in runs]
    if len(runs) < 2 or max(means) == min(means):
        return over_games
    interval = ttest_1samp(means, 0).confidence_interval(CONFIDENCE)
    low, high = over_games or (math.inf, -math.inf)
    return min(low, float(interval.low)), max(high, float(interval.high))


def game_rate_interval(successes: Sequence[int], replies: Sequence[int], seed: int = 0) -> Interval | None:
    """Return the interval of a rate per reply, pooled over games: sum(successes) / sum(replies), one entry a game each.

    Replies of one game are not independent. So whole games are resampled (percentile bootstrap of the ratio),
    and the result is the hull of that interval and Wilson's over all replies: Wilson's alone is too narrow
    where the rate differs between games, the bootstrap alone with few games. With one game, or where all games
    have the same rate (0 or 1, say) and so resampling shows no spread, it is Wilson's. None without replies.
    """
    wilson = wilson_interval(sum(successes), sum(replies))
    if wilson is None or len(replies) < 2:
        return wilson

    def pooled(legal: Any, asked: Any, axis: int) -> Any:
        return legal.sum(axis=axis) / asked.sum(axis=axis)

    # Not BCa: it is undefined where all games have the same rate.
    low, high = _bootstrap((successes, replies), pooled, "percentile", seed)
    return min(low, wilson[0]), max(high, wilson[1])


def paired_gain(values: Sequence[float], base: Sequence[float], seed: int = 0) -> Gain:
    """Return mean, ci95 (bootstrap, BCa), n and probability of `values - base`, pair by pair.

    The probability that the mean gain is positive is the share of bootstrap resamples of the pairs with a mean above
    0, those at 0 counted half. None for fewer than two pairs.
    """
    import numpy as np

    gains = np.subtract(values, base).astype(float)
    n = len(gains)
    probability = None
    if n > 1:
        rng = np.random.default_rng(seed)
        means = np.concatenate([gains[rng.integers(n, size=(500, n))].mean(axis=1) for _ in range(20)])
        probability = float((means > 0).mean() + (means == 0).mean() / 2)
    interval = bootstrap_mean_interval(gains.tolist(), seed)
    return {"mean": float(gains.mean()), "ci95": as_json(interval), "n": n, "probability": probability}


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def rate(successes: int, n: int) -> Rate:
    """Return a rate over independent trials with Wilson's interval; value and interval are None where n is 0."""
    return rate_entry(successes, n, wilson_interval(successes, n))


def rate_entry(successes: int, n: int, interval: Interval | None) -> Rate:
    """Return a rate with the given interval."""
    return {"value": successes / n if n else None, "ci95": as_json(interval), "n": n}


def with_interval(
    value: float | None, interval: Sequence[float] | None, spec: str = ".2f", *, scale: float = 1, sign: str = ""
) -> str:
    """Return `1.23 [1.00, 1.50]`, `1.23` without an interval, `-` without a value; `sign` "+": also before a gain."""
    if value is None:
        return "-"
    text = format(scale * value, sign + spec)
    return text if interval is None else f"{text} [{', '.join(format(scale * end, spec) for end in interval)}]"


def as_json(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _bootstrap(samples: tuple[Sequence[float], ...], statistic: Any, method: str, seed: int) -> Interval:
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        tuple(np.asarray(sample, dtype=float) for sample in samples),
        statistic,
        n_resamples=9999,
        batch=500,  # bounds memory: 500 resamples of all values at a time
        paired=len(samples) > 1,
        confidence_level=CONFIDENCE,
        method=method,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
