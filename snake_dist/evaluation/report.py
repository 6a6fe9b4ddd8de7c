"""From episodes to numbers with stable names (docs/metrics.md), a table for the terminal, and report.json."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from snake_dist.checkpoint.publish import write_json_atomically
from snake_dist.evaluation.episodes import Episode
from snake_dist.evaluation.statistics import as_json, bootstrap_mean_interval, game_rate_interval, rate_entry
from snake_dist.game.board import End

TABLE_WIDTH = 100
_MAX_NAME_WIDTH = 24
_NO_BREAK = "\u00a0"


def summarize(episodes: Sequence[Episode], seconds: float | None = None) -> dict[str, Any]:
    """The numbers of one player's games, as JSON; `seconds` of wall clock adds moves_per_second.

    `ends` names every reason, also those with 0 games, and sums to `games`. A rate is pooled over all replies
    of all games; see `game_rate_interval` for its interval. Raises ValueError without episodes.
    """
    if not episodes:
        raise ValueError("there is no episode to summarize")
    apples = [episode.score for episode in episodes]
    replies = [episode.num_replies for episode in episodes]
    steps = sum(episode.steps for episode in episodes)
    ends = Counter(episode.end for episode in episodes)
    summary: dict[str, Any] = {
        "games": len(episodes),
        "apples": {
            "mean": fmean(apples),
            "ci95": as_json(bootstrap_mean_interval(apples)),
            "median": median(apples),
            "max": max(apples),
        },
        "legal_move_rate": _rate([episode.num_legal for episode in episodes], replies),
        "format_valid_rate": _rate([episode.num_valid_format for episode in episodes], replies),
        "ends": {end.value: ends[end.value] for end in End},
        "steps": {"mean": steps / len(episodes)},
        "steps_per_apple": steps / sum(apples) if any(apples) else None,
    }
    if seconds is not None:
        summary["moves_per_second"] = sum(replies) / seconds
    return summary


def flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """All numbers of a tree of results under W&B names: path joined by "/", ci95 as two, None left out.

    `flatten(results, "play")` has `play/players/adapter/apples/mean`, `play/players/adapter/apples/ci95_low`, ...
    """
    flat: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}/{key}")
        elif key == "ci95":
            flat |= {f"{prefix}/ci95_{side}": value[i] for i, side in enumerate(("low", "high")) if value}
        elif value is not None:
            flat[f"{prefix}/{key}"] = value
    return flat


def render_table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Players (name -> summary) as an aligned table of `TABLE_WIDTH` columns, without a last newline."""
    rows = [["player", "games", "apples per game", "legal moves %", "valid %", "games ended by"]]
    for name, summary in summaries.items():
        apples, legal = summary["apples"], summary["legal_move_rate"]
        rows.append(
            [
                name if len(name) <= _MAX_NAME_WIDTH else name[: _MAX_NAME_WIDTH - 3] + "...",
                str(summary["games"]),
                _with_interval(apples["mean"], apples["ci95"]),
                _with_interval(*(_percent(legal[key]) for key in ("value", "ci95"))),
                f"{_percent(summary['format_valid_rate']['value']):.2f}",
                _ends(summary["ends"]),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    left = sum(widths) + 2 * len(widths)
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in range(1, 5))]
        ends = textwrap.wrap(row[5], max(TABLE_WIDTH - left, 16), break_on_hyphens=False)
        lines.append("  ".join([*cells, ends[0]]))
        lines.extend(" " * left + more for more in ends[1:])
    return "\n".join(lines).replace(_NO_BREAK, " ")


def write_report(directory: str | Path, results: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
    """Write `report.json`: {"settings": ..., "players": {name: summary}, "state_bank": {name: rates}}.

    `results` is what `judge.judge` returns. The directory is made if needed; the file appears whole or not at
    all, over an older one. Returns its path.
    """
    path = Path(directory) / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {"settings": settings, **results})
    return path


def _rate(successes: Sequence[int], replies: Sequence[int]) -> dict[str, Any]:
    return rate_entry(sum(successes), sum(replies), game_rate_interval(successes, replies))


def _percent(value: Any) -> Any:
    return [100 * each for each in value] if isinstance(value, list) else 100 * value


def _with_interval(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _ends(ends: Mapping[str, int]) -> str:
    """Reasons by number of games; a no-break space keeps each on one line with its number."""
    found = sorted(((count, reason) for reason, count in ends.items() if count), reverse=True)
    return ", ".join(f"{reason} {count}".replace("_", " ").replace(" ", _NO_BREAK) for count, reason in found)
