from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from snake_dist.ablation.verdicts import FinishedRun, analyse, notes, render_markdown, setting_table
from snake_dist.evaluation.judging.intervals import bootstrap_mean_interval, interval_over_runs

GAMES = {"grid_size": 10, "max_steps": 0}


def run(apples, seed=0, games=GAMES, **choice) -> FinishedRun:
    setting = "_".join(f"{axis}-{value}" for axis, value in choice.items())
    scores = dict(enumerate(apples))
    return FinishedRun(f"{setting}-seed-{seed}", setting, choice, seed, games, scores, 0.9, 0.5, 1000 + seed, 7.0)


def around(mean, seed, num_games=30) -> list[int]:
    """Apples of games of a player who eats this many on average."""
    return np.random.default_rng(seed).poisson(mean, num_games).tolist()


def verdicts(runs, axis="preset", **axes):
    return analyse(runs, axes, [axis])["verdicts"][axis]


def test_the_interval_over_runs_is_students_of_their_means():
    runs = [[1, 3], [4, 4], [3, 7]]  # means 2, 4, 5
    low, high = interval_over_runs(runs)
    half = stats.t.ppf(0.975, 2) * np.std([2, 4, 5], ddof=1) / np.sqrt(3)
    assert (low, high) == pytest.approx((11 / 3 - half, 11 / 3 + half))


def test_the_interval_over_runs_is_never_narrower_than_that_over_games():
    games = [0, 8, 1, 7, 3, 5, 2, 6]
    over_games = bootstrap_mean_interval(games)
    assert interval_over_runs([games]) == over_games
    assert interval_over_runs([games, games]) == over_games  # by chance the same mean twice
    assert interval_over_runs([games, [game + 1e-6 for game in games]]) == pytest.approx(over_games, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [2, 5])
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_interval_over_runs_covers_the_truth(num_runs, spread):
    """Runs whose true means differ by their seed, games on top of that: 95 % of the intervals hold the mean."""
    rng = np.random.default_rng(0)
    num_covered, num_trials = 0, 200
    for _ in range(num_trials):
        values = rng.normal(0, spread, (num_runs, 1)) + rng.normal(0, 4, (num_runs, 50))
        low, high = interval_over_runs(values.tolist())
        num_covered += low <= 0 <= high
    assert num_covered >= 0.91 * num_trials  # 95 %, less 2.6 standard errors


def test_a_difference_that_is_there_is_said_with_its_interval():
    runs = [
        run(around(mean, 10 * seed + mean), seed, preset=preset)
        for preset, mean in (("small", 4), ("large", 9))
        for seed in range(3)
    ]
    [verdict] = verdicts(runs, preset=["small", "large"])
    gains = [
        np.mean([*b.apples.values()]) - np.mean([*a.apples.values()]) for a, b in zip(runs[:3], runs[3:], strict=True)
    ]
    low, high = interval_over_runs([[g] for g in gains])  # one game a run: t alone
    assert verdict["values"] == ["large", "small"]
    assert (verdict["pairs"], verdict["seeds"]) == (3, 3)
    assert verdict["mean"] == pytest.approx(np.mean(gains))
    assert verdict["ci95"][0] <= low <= high <= verdict["ci95"][1]
    bounds = "[{:.2f}, {:.2f}]".format(*verdict["ci95"])
    assert verdict["says"] == f"large beats small by {np.mean(gains):.2f} {bounds} apples a game, 3 pairs of runs"


def test_no_difference_is_said_as_such():
    runs = [run(around(5, 10 * seed + i), seed, preset=p) for i, p in enumerate("ab") for seed in range(3)]
    [verdict] = verdicts(runs, preset=["a", "b"])
    assert verdict["ci95"][0] < 0 < verdict["ci95"][1]
    assert verdict["says"].startswith("no difference shown: ")
    assert "3 pairs of runs" in verdict["says"]


def test_what_one_seed_cannot_say_is_said():
    runs = [run(around(2, 1), preset="a"), run(around(9, 2), preset="b")]
    [verdict] = verdicts(runs, preset=["a", "b"])
    assert verdict["says"].startswith("b beats a by ")
    assert verdict["says"].endswith(
        "one pair of runs: the interval is over games alone and says nothing of other training seeds"
    )
    analysis = analyse(runs, {"preset": ["a", "b"]}, ["preset"])
    assert any("says nothing" in note or "say nothing" in note for note in notes(analysis))


def test_an_axis_is_compared_at_the_same_values_of_the_others():
    """Rank 8 has eaten more only because its one run is the one with the better preset."""
    runs = [
        run(around(3, 1), preset="a", rank="4"),
        run(around(12, 2), preset="b", rank="4"),
        run(around(12, 3), preset="b", rank="8"),
    ]
    [verdict] = verdicts(runs, "rank", rank=["4", "8"], preset=["a", "b"])
    assert verdict["pairs"] == 1
    assert verdict["mean"] == pytest.approx(
        abs(np.mean(list(runs[2].apples.values())) - np.mean(list(runs[1].apples.values()))) * np.sign(verdict["mean"])
    )
    assert verdict["says"].startswith("no difference shown")


def test_runs_with_other_games_or_without_a_partner_are_not_compared():
    other = run(around(9, 2), games=GAMES | {"grid_size": 8}, preset="b")
    [verdict] = verdicts([run(around(2, 1), preset="a"), other], preset=["a", "b"])
    assert verdict["says"] == "b and a were judged by different games: not compared"
    assert "mean" not in verdict
    [verdict] = verdicts([run(around(2, 1), 0, preset="a"), run(around(9, 2), 1, preset="b")], preset=["a", "b"])
    assert verdict["says"] == "b and a: no pair of finished runs"
    assert verdicts([run(around(2, 1), preset="a")], preset=["a", "b"]) == []


def test_every_pair_of_values_is_judged_the_best_first():
    runs = [run([mean] * 5, seed, preset=p) for p, mean in (("a", 1), ("b", 9), ("c", 5)) for seed in (0, 1)]
    found = verdicts(runs, preset=["a", "b", "c"])
    assert [verdict["values"] for verdict in found] == [["b", "c"], ["b", "a"], ["c", "a"]]
    analysis = analyse(runs, {"preset": ["a", "b", "c"]}, ["preset"])
    assert "Of 3 comparisons each has its own 95 %" in notes(analysis)[-1]


def test_the_table_has_means_over_seeds_and_no_apples_below_zero():
    runs = [run([0, 0, 1], 0, preset="a"), run([2, 2, 2], 1, preset="a"), run([9, 9, 9], 0, preset="b")]
    analysis = analyse(runs, {"preset": ["a", "b"]}, ["preset"]) | {"name": "n", "unfinished": {"x": "failed: why"}}
    first, second = analysis["settings"]
    assert first["apples"]["mean"] == pytest.approx((1 / 3 + 2) / 2)
    assert first["apples"]["ci95"][0] == 0
    assert first["apples"]["by_seed"] == {"0": pytest.approx(1 / 3), "1": 2}
    assert first["num_tokens"] == 1000
    assert second["apples"]["ci95"] == [9, 9]
    text = render_markdown(analysis)
    assert text.index("| preset b") < text.index("| preset a")  # from strong to weak
    assert "- x: failed: why" in text


def test_settings_without_a_held_out_set_have_no_held_out_loss():
    runs = [replace(run([1, 2, 3], 0, preset="a"), held_out_loss=None), run([4, 5, 6], 0, preset="b")]
    analysis = analyse(runs, {"preset": ["a", "b"]}, ["preset"])
    assert [setting["held_out_loss"] for setting in analysis["settings"]] == [None, runs[1].held_out_loss]
    assert setting_table(analysis["settings"])[2][4] == "-"
