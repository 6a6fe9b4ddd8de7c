"""The verdicts of an ablation: which value of an axis is better, and each setting's interval over training seeds.

It compares values of an axis in pairs of runs that differ in nothing else: neither in other settings nor in seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from snake_dist.evaluation.judging.intervals import as_json, interval_over_runs, with_interval
from snake_dist.evaluation.report.numbers import markdown_table


@dataclass(frozen=True)
class FinishedRun:
    """A run of the grid with its results."""

    name: str
    setting: str
    """Name of all but the seed."""
    choice: Mapping[str, str]
    """Axis -> its value in this run."""
    seed: int
    games: Mapping[str, Any]
    """Settings of the games, as in report.json: runs are compared only if these are equal."""
    apples: Mapping[int, int]
    """Game seed -> apples, by rising seed."""
    legal_move_rate: float
    held_out_loss: float | None
    """None where nothing was held out."""
    num_tokens: int
    """Number of training tokens, prompts included."""
    seconds: float
    """Seconds of training."""


def analyse(runs: Sequence[FinishedRun], axes: Mapping[str, Sequence[str]], compare: Sequence[str]) -> dict[str, Any]:
    """Return {"settings": [one per setting], "verdicts": {axis of `compare`: [one per pair of values, best first]}}.

    `axes`: axis -> its values. The result is JSON; a verdict has its sentence under "says".
    """
    by_setting: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_setting.setdefault(run.setting, []).append(run)
    return {
        "settings": [_summarize(same) for same in by_setting.values()],
        "verdicts": {axis: _verdicts(runs, axis, axes[axis]) for axis in compare},
    }


def _summarize(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Average the runs of one setting."""
    interval = interval_over_runs([list(run.apples.values()) for run in runs])
    if interval is not None:  # a game cannot have fewer than no apples
        interval = max(0.0, interval[0]), interval[1]
    losses = [run.held_out_loss for run in runs if run.held_out_loss is not None]
    return {
        "name": runs[0].setting,
        "choice": dict(runs[0].choice),
        "apples": {
            "mean": fmean(_mean(run) for run in runs),
            "ci95": as_json(interval),
            "by_seed": {str(run.seed): _mean(run) for run in runs},
        },
        "games": len(runs[0].apples),
        "legal_move_rate": fmean(run.legal_move_rate for run in runs),
        "held_out_loss": fmean(losses) if losses else None,
        "num_tokens": round(fmean(run.num_tokens for run in runs)),
        "seconds": fmean(run.seconds for run in runs),
    }


def _mean(run: FinishedRun) -> float:
    return fmean(run.apples.values())


def _verdicts(runs: Sequence[FinishedRun], axis: str, values: Sequence[str]) -> list[dict[str, Any]]:
    means = {value: [_mean(run) for run in runs if run.choice[axis] == value] for value in values}
    order = sorted((value for value in values if means[value]), key=lambda value: -fmean(means[value]))
    return [_verdict(runs, axis, better, worse) for better, worse in itertools.combinations(order, 2)]


def _verdict(runs: Sequence[FinishedRun], axis: str, one: str, other: str) -> dict[str, Any]:
    """Compare `one` value of the axis with the other."""
    sides = [{_rest(run, axis): run for run in runs if run.choice[axis] == value} for value in (one, other)]
    pairs = [(sides[0][rest], sides[1][rest]) for rest in sides[0] if rest in sides[1]]
    verdict: dict[str, Any] = {"values": [one, other], "pairs": len(pairs), "seeds": len({a.seed for a, _ in pairs})}
    if not pairs:
        return verdict | {"says": f"{one} and {other}: no pair of finished runs"}
    if any(a.games != b.games for a, b in pairs):
        return verdict | {"says": f"{one} and {other} were judged by different games: not compared"}
    gains = [[a.apples[game] - b.apples[game] for game in a.apples] for a, b in pairs]
    mean, interval = fmean(map(fmean, gains)), interval_over_runs(gains)
    return verdict | {"mean": mean, "ci95": as_json(interval), "says": _words(one, other, mean, interval, len(pairs))}


def _rest(run: FinishedRun, axis: str) -> tuple[Any, ...]:
    return run.seed, *(value for name, value in run.choice.items() if name != axis)


def _words(one: str, other: str, mean: float, interval: tuple[float, float] | None, num_pairs: int) -> str:
    if interval is not None and not interval[0] <= 0 <= interval[1]:
        winner, loser = (one, other) if mean > 0 else (other, one)
        gain = with_interval(abs(mean), (abs(interval[mean < 0]), abs(interval[mean > 0])))
        verdict = f"{winner} beats {loser} by {gain} apples a game"
    else:
        gain = with_interval(mean, interval, sign="+")
        verdict = f"no difference shown: {one} over {other} {gain} apples a game"
    if num_pairs > 1:
        return f"{verdict}, {num_pairs} pairs of runs"
    return f"{verdict}, one pair of runs: the interval is over games alone and says nothing of other training seeds"


def title(choice: Mapping[str, str]) -> str:
    """Write a setting as a title."""
    return ", ".join(f"{axis} {value}" for axis, value in choice.items())


def setting_table(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return rows of text: the head, then the settings from strong to weak."""
    rows = [["setting", "seeds", "apples a game", "legal moves %", "held-out loss", "tokens", "training s"]]
    for setting in sorted(settings, key=lambda setting: -setting["apples"]["mean"]):
        apples = setting["apples"]
        rows.append(
            [
                title(setting["choice"]),
                str(len(apples["by_seed"])),
                with_interval(apples["mean"], apples["ci95"]),
                f"{100 * setting['legal_move_rate']:.2f}",
                "-" if setting["held_out_loss"] is None else f"{setting['held_out_loss']:.4f}",
                f"{setting['num_tokens']:,}",
                f"{setting['seconds']:.0f}",
            ]
        )
    return rows


def notes(analysis: Mapping[str, Any]) -> list[str]:
    """Explain the intervals to the reader."""
    seeds = {len(setting["apples"]["by_seed"]) for setting in analysis["settings"]}
    sentences = []
    if max(seeds) > 1:
        sentences.append(
            "Brackets are 95 % intervals over training seeds (Student's t over the runs' means, never narrower than "
            "the bootstrap over games): two seeds give wide ones, five useful ones."
        )
    if min(seeds) == 1:
        sentences.append(
            "With one training seed brackets are 95 % intervals over games, and say nothing of other training seeds."
        )
    compared = sum("ci95" in verdict for verdicts in analysis["verdicts"].values() for verdict in verdicts)
    if compared > 1:
        sentences.append(
            f"Of {compared} comparisons each has its own 95 %: the more there are, the more are wrong by chance."
        )
    return sentences


def render_markdown(analysis: Mapping[str, Any]) -> str:
    """Render the whole result as Markdown that is readable on a terminal too."""
    lines = [f"# {analysis['name']}", "", markdown_table(setting_table(analysis["settings"]), is_padded=True), ""]
    for axis, verdicts in analysis["verdicts"].items():
        lines += [f"- {axis}: {verdict['says']}." for verdict in verdicts]
    lines += ["", *notes(analysis)]
    if analysis["unfinished"]:
        lines += ["", "Not finished:", *(f"- {run}: {why}" for run, why in analysis["unfinished"].items())]
    return "\n".join(lines) + "\n"
