"""The numbers of games as a table for the terminal, under W&B names, as Markdown and as report.json."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snake_dist.evaluation.judging.intervals import with_interval
from snake_dist.evaluation.judging.metrics import PlayerSummary
from snake_dist.files import REPORT, write_json_atomically

TABLE_WIDTH = 100
_MAX_NAME_WIDTH = 24
_NO_BREAK = "\u00a0"


def flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return all numbers of a tree of results under W&B names: the path joined by "/", ci95 as two, None left out.

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


def render_table(summaries: Mapping[str, PlayerSummary]) -> str:
    """Return players (name -> summary) as an aligned table of `TABLE_WIDTH` columns, without a last newline.

    On a solved board a line for each player follows: what its moves cost against perfect play.
    """
    rows = [["player", "games", "apples per game", "legal moves %", "valid %", "games ended by"]]
    for name, summary in summaries.items():
        apples, legal = summary["apples"], summary["legal_move_rate"]
        rows.append(
            [
                name if len(name) <= _MAX_NAME_WIDTH else name[: _MAX_NAME_WIDTH - 3] + "...",
                str(summary["games"]),
                with_interval(apples["mean"], apples["ci95"]),
                with_interval(legal["value"], legal["ci95"], scale=100),
                with_interval(summary["format_valid_rate"]["value"], None, scale=100),
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
    lines += _regrets(summaries)
    return "\n".join(lines).replace(_NO_BREAK, " ")


def _regrets(summaries: Mapping[str, PlayerSummary]) -> list[str]:
    lines = []
    for name, summary in summaries.items():
        regret = summary.get("regret")
        if regret is not None and regret["mean_steps"] is not None:
            best, losing = (f"{regret[rate]['value']:.1%}" for rate in ("optimal_rate", "losing_rate"))
            steps = f"regret {regret['mean_steps']:.2f} steps a move"
            lines.append(f"{name}: {steps}, {best} of moves optimal, {losing} give up certainty")
    return lines


def markdown_table(rows: Sequence[Sequence[str]], *, is_padded: bool = False) -> str:
    """Return rows of text, the head first, as a Markdown table without a last newline.

    `is_padded`: the first column is flush left, the others are flush right, so that it also reads well on a terminal.
    """
    if is_padded:
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        rows = [
            [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))]
            for row in rows
        ]
        rule = f"| {' | '.join(['-' * first, *('-' * (width - 1) + ':' for width in others)])} |"
    else:
        rule = "|" + "---|" * len(rows[0])
    head, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, rule, *lines])


def write_report(directory: str | Path, results: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
    """Write `report.json`: {"settings": ..., "players": {name: summary}, "state_bank": {name: rates}}.

    `results` is what `judge` returns. The directory is created if needed; the file replaces an older
    one, whole or not at all. Returns its path.
    """
    path = Path(directory) / REPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, {"settings": settings, **results})
    return path


def _ends(ends: Mapping[str, int]) -> str:
    """Return the reasons by number of games; a no-break space keeps each on one line with its number."""
    counts = sorted(((count, reason) for reason, count in ends.items() if count), reverse=True)
    return ", ".join(f"{reason} {count}".replace("_", " ").replace(" ", _NO_BREAK) for count, reason in counts)
