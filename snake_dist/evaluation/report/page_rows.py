"""The rows of the report page (ladder, ends, metrics, gains, curves), as plain data for the template."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from snake_dist.evaluation.judging.intervals import Gain, Rate, bootstrap_mean_interval, with_interval
from snake_dist.evaluation.judging.metrics import PlayerSummary
from snake_dist.evaluation.judging.regret import Regret
from snake_dist.evaluation.judging.state_bank import BankRates, BankScores
from snake_dist.files import METRICS

PUBLISHED = {
    "deepseek-reasoner": (20, 25),
    "hunyuan-t1": (8, 27, 12, 16, 16, 24, 13, 14),
    "devstral-24b": (4, 3, 0, 2, 0, 6, 0, 2),
    "gemma3-12b": (0, 2, 0, 0, 0, 0),
    "mistral-7b": (1, 0, 0, 2, 1, 0),
}
"""Model -> apples of each game in published logs of others, not measured here:
github.com/reveurmichael/machine_learning, llm-play-snake-game-v3-MoE/logs/MODEL_2025061[78]_*/summary.json at commits
48e1f781 (the first two models) and d4c3082c. A board of 10 x 10, one apple, no fine-tuning; at most 400 or 800 steps; a
reply may plan several moves, and some may be empty."""
MIN_PUBLISHED_GAMES = 5
"""Fewer games give no interval."""

_CURVES = ("train/loss", "eval/loss", "eval/token_accuracy", "eval/play/apples/mean", "eval/play/legal_move_rate/value")
_MAX_POINTS = 400


def ladder_rows(
    players: Mapping[str, PlayerSummary], kinds: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Return (rows from weak to strong, apples at the axis' end), with published results where they are comparable."""
    results: list[tuple[str, str, float, Any, int | None]] = [
        (name, _kind(name, kinds), summary["apples"]["mean"], summary["apples"]["ci95"], summary["games"])
        for name, summary in players.items()
    ]
    if (settings["grid_size"], settings["mode"], settings["max_steps"]) == (10, "classic", 0):
        results += [
            (name, "published", fmean(apples), _interval(apples), len(apples)) for name, apples in PUBLISHED.items()
        ]
    top = axis_end((mean, interval) for _, _, mean, interval, _ in results)
    rows = []
    for name, kind, mean, interval, games in sorted(results, key=lambda row: row[2]):
        label = f"{name} ({games} games)" if kind == "published" else name
        rows.append({"name": label, "kind": kind, **on_axis(mean, interval, top)})
    return rows, top


def axis_end(results: Iterable[tuple[float, Sequence[float] | None]]) -> int:
    """Return the apples at the end of an axis that holds these means with their intervals."""
    return max(1, -int(-max(interval[1] if interval else mean for mean, interval in results) // 1))


def on_axis(mean: float, interval: Sequence[float] | None, end: int) -> dict[str, Any]:
    """Return a mean with its interval as ladder.html.j2 takes them: in per cent of the axis, and as text."""
    low, high = interval or (mean, mean)
    return {
        "at": round(100 * mean / end, 2),
        "interval": interval is not None,
        "low": round(100 * low / end, 2),
        "width": round(100 * (high - low) / end, 2),
        "text": with_interval(mean, interval),
    }


def _interval(apples: Sequence[int]) -> Any:
    return bootstrap_mean_interval(apples) if len(apples) >= MIN_PUBLISHED_GAMES else None


def _kind(name: str, kinds: Mapping[str, str]) -> str:
    kind = kinds.get(name, "heuristic")
    return "base" if kind == "model" and name.split()[0] == "base" else kind


def gain_sentences(gained: Mapping[str, Gain]) -> list[str]:
    """Return one sentence a player: how much better it is than the base model, and with which probability."""
    sentences = []
    for name, gain in gained.items():
        probability = gain["probability"]
        sure = "" if probability is None else f"; probability that it is better: {probability:.1%}"
        mean = with_interval(gain["mean"], gain["ci95"], sign="+")
        sentences.append(f"{name} over the base, on the same {gain['n']} games: {mean} apples a game{sure}.")
    return sentences


def ends_table(players: Mapping[str, PlayerSummary], ends: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shares": [(end, summary["ends"][end] / summary["games"]) for end in ends]}
        for name, summary in players.items()
    ]


Cell = tuple[str, str | None]
"""A number and its interval, as text."""


def _plain(value: float | None) -> Cell:
    return _number(value), None


def _bounded(value: float | None, interval: Sequence[float] | None, is_rate: bool = False) -> Cell:
    bounds = None if interval is None else " to ".join(_number(end, is_rate) for end in interval)
    return _number(value, is_rate), bounds


def _rate(rate: Rate) -> Cell:
    return _bounded(rate["value"], rate["ci95"], is_rate=True)


def _regret(player: PlayerSummary) -> Regret:
    """Return the player's regret, without numbers on a board that is not solved, or in a report of before."""
    nothing: Rate = {"value": None, "ci95": None, "n": 0}
    return player.get("regret") or {"mean_steps": None, "optimal_rate": nothing, "losing_rate": nothing}


_GAME_METRICS: dict[str, Callable[[PlayerSummary], Cell]] = {
    "apples.mean": lambda player: _bounded(player["apples"]["mean"], player["apples"]["ci95"]),
    "apples.median": lambda player: _plain(player["apples"]["median"]),
    "apples.p5": lambda player: _plain(player["apples"]["p5"]),
    "apples.max": lambda player: _plain(player["apples"]["max"]),
    "coverage.mean": lambda player: _bounded(player["coverage"]["mean"], player["coverage"]["ci95"], is_rate=True),
    "fill_rate": lambda player: _rate(player["fill_rate"]),
    "starved_rate": lambda player: _rate(player["starved_rate"]),
    "steps.mean": lambda player: _plain(player["steps"]["mean"]),
    "steps_per_apple": lambda player: _plain(player["steps_per_apple"]),
    "steps_to_fill.mean": lambda player: _bounded(player["steps_to_fill"]["mean"], player["steps_to_fill"]["ci95"]),
    "path_efficiency": lambda player: _plain(player["path_efficiency"]),
    "regret.mean_steps": lambda player: _plain(_regret(player)["mean_steps"]),
    "regret.optimal_rate": lambda player: _rate(_regret(player)["optimal_rate"]),
    "regret.losing_rate": lambda player: _rate(_regret(player)["losing_rate"]),
    "legal_move_rate": lambda player: _rate(player["legal_move_rate"]),
    "format_valid_rate": lambda player: _rate(player["format_valid_rate"]),
    "claims_true_rate": lambda player: _rate(player["claims_true_rate"]),
    "moves_per_reply": lambda player: _plain(player["moves_per_reply"]),
    "tokens_per_move": lambda player: _plain(player["tokens_per_move"]),
    "ms_per_move": lambda player: _plain(player["ms_per_move"]),
}
_BANK_METRICS: dict[str, Callable[[BankRates], Rate]] = {
    "optimal_set_rate": lambda bank: bank["optimal_set_rate"],
    "optimal_choice_rate": lambda bank: bank["optimal_choice_rate"],
    "legal_move_rate": lambda bank: bank["legal_move_rate"],
    "format_valid_rate": lambda bank: bank["format_valid_rate"],
    "avoidable_fatal_rate": lambda bank: bank["avoidable_fatal_rate"],
    "tail_safe_fork_rate": lambda bank: bank["tail_safe_fork_rate"],
    "food_over_survival_rate": lambda bank: bank["food_over_survival_rate"],
    "claims_true_rate": lambda bank: bank["claims_true_rate"],
}
_BY_FILL = ("legal_move_rate", "avoidable_fatal_rate", "optimal_choice_rate")


def metric_table(
    players: Mapping[str, PlayerSummary], state_bank: Mapping[str, BankScores]
) -> list[tuple[str, list[tuple[str, list[Cell]]]]]:
    """Return (group, ((metric, one cell a player), ...)) for games, moves by length, the bank, and the bank by fill."""
    summaries = list(players.values())
    groups = [
        ("Games", [(name, [cell(player) for player in summaries]) for name, cell in _GAME_METRICS.items()]),
        (
            "Moves per apple by snake length",
            [
                (length, [_plain(player["steps_per_apple_by_length"][length]) for player in summaries])
                for length in summaries[0]["steps_per_apple_by_length"]
            ],
        ),
    ]
    if state_bank:
        scores = [state_bank.get(name) for name in players]
        one = next(score for score in scores if score)
        rows = [(name, [_bank_cell(score, name) for score in scores]) for name in _BANK_METRICS]
        groups.append((f"{one['n']} unseen positions", rows))
        for name in _BY_FILL:
            rows = [
                (f"{fill} % of the board", [_bank_cell(score and score["by_fill"][fill], name) for score in scores])
                for fill, bucket in one["by_fill"].items()
                if bucket["n"]
            ]
            groups.append((f"{name} by fill", rows))
    return groups


def _bank_cell(rates: BankRates | None, name: str) -> Cell:
    return ("-", None) if rates is None else _rate(_BANK_METRICS[name](rates))


def _number(value: float | None, is_rate: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if is_rate else f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"


def training_curves(runs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return polylines in a box of 100 x 100 for each metric that a run has logged at two or more steps."""
    curves = []
    logs = {label: path for label, run in runs.items() if (path := run / METRICS).is_file()}
    for label, path in logs.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        logged = [json.loads(line) for line in lines]
        for metric in _CURVES:
            points = [(entry["step"], entry[metric]) for entry in logged if metric in entry]
            if len({step for step, _ in points}) > 1:
                name = metric if len(logs) == 1 else f"{label}: {metric}"
                curves.append({"name": name, **_curve([*points[: -1 : -(-len(points) // _MAX_POINTS)], points[-1]])})
    return curves


def _curve(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(0.0, *values), max(values)
    span = (high - low) or 1.0

    def corners() -> Iterator[str]:
        for step, value in points:
            yield f"{100 * (step - steps[0]) / (steps[-1] - steps[0]):.2f} {100 - 100 * (value - low) / span:.2f}"

    return {
        "path": "M" + "L".join(corners()),
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "first": steps[0],
        "last": steps[-1],
        "first_value": f"{values[0]:.3g}",
        "last_value": f"{values[-1]:.3g}",
    }
