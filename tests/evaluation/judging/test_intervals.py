from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snake_dist.evaluation.judging.intervals import (
    bootstrap_mean_interval,
    game_rate_interval,
    rate,
    wilson_interval,
    with_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0), (81, 263, 0.25528, 0.36621)],
)
def test_wilson_known_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-5)


def test_wilson_without_trials():
    assert wilson_interval(0, 0) is None
    assert rate(0, 0) == {"value": None, "ci95": None, "n": 0}


def test_mean_interval_agrees_with_normal_theory():
    values = [(17 * i) % 101 for i in range(505)]  # uniform over 0..100, five times
    low, high = bootstrap_mean_interval(values)
    half = 1.96 * math.sqrt((101**2 - 1) / 12 / 505)
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.15)


def test_mean_interval_is_a_function_of_values_and_seed():
    values = [0, 1, 5, 9, 30]
    assert bootstrap_mean_interval(values) == bootstrap_mean_interval(values)
    assert bootstrap_mean_interval(values, seed=1) != bootstrap_mean_interval(values, seed=2)


def test_mean_interval_needs_two_values():
    assert bootstrap_mean_interval([]) is None
    assert bootstrap_mean_interval([7]) is None
    assert bootstrap_mean_interval([3, 3, 3]) == (3.0, 3.0)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 97), min_size=2, max_size=40) | st.integers(2, 60).map(lambda n: [0] * n + [1]))
def test_mean_interval_is_finite_and_within_the_sample(values):
    low, high = bootstrap_mean_interval(values)
    assert min(values) <= low <= high <= max(values)


def test_game_rate_is_wilson_where_resampling_shows_nothing():
    assert game_rate_interval([0] * 20, [1] * 20) == wilson_interval(0, 20)
    assert game_rate_interval([150] * 20, [150] * 20) == wilson_interval(3000, 3000)
    assert game_rate_interval([90], [100]) == wilson_interval(90, 100)
    assert game_rate_interval([], []) is None


def test_game_rate_knows_that_games_differ():
    """Half of the games at 10 %, half at 90 %: 20 games tell much less than 2,000 independent replies."""
    low, high = game_rate_interval([10, 90] * 10, [100] * 20)
    wilson_low, wilson_high = wilson_interval(1000, 2000)
    assert high - low > 5 * (wilson_high - wilson_low)


@settings(max_examples=20)
@example([(9, 1)] * 5)  # every game the same: resampling shows no spread
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), min_size=1, max_size=30))
def test_game_rate_contains_wilson(games):
    successes, replies = [legal for legal, _ in games], [legal + more for legal, more in games]
    low, high = game_rate_interval(successes, replies)
    wilson_low, wilson_high = wilson_interval(sum(successes), sum(replies))
    assert 0 <= low <= wilson_low <= wilson_high <= high <= 1


def test_a_number_with_its_interval_as_text():
    assert with_interval(1.234, (1, 1.5)) == "1.23 [1.00, 1.50]"
    assert with_interval(0.5, [0.25, 0.75], ".0f", scale=100) == "50 [25, 75]"
    assert with_interval(2, [-1, 5], ".1f", sign="+") == "+2.0 [-1.0, 5.0]"
    assert (with_interval(1234.5, None, ",.1f"), with_interval(None, None)) == ("1,234.5", "-")
