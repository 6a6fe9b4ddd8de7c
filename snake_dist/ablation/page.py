"""An ablation's result as one HTML page: no server, no network, opens from disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snake_dist.ablation.verdicts import notes, setting_table, title
from snake_dist.evaluation.report.page import style_sheet, template
from snake_dist.evaluation.report.page_rows import axis_end, on_axis


def render_page(analysis: Mapping[str, Any]) -> str:
    """Render `ablation.json` as a page, with links to the runs beside it."""
    rows, axis_max = _ladder(analysis["settings"])
    head, *table = setting_table(analysis["settings"])
    runs = [{"name": name, "apples": _apples_of(run, analysis["settings"])} for name, run in analysis["runs"].items()]
    return template("ablation.html.j2").render(
        title=f"Ablation: {analysis['name']}",
        css=style_sheet(),
        ladder=rows,
        ladder_label="Mean apples per game of each setting with 95 % intervals, from weak to strong",
        axis_max=axis_max,
        verdicts=analysis["verdicts"],
        notes=notes(analysis),
        head=head,
        table=table,
        runs=runs,
        unfinished=analysis["unfinished"],
    )


def _ladder(settings: list[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return (rows from weak to strong, apples at the axis' end) for ladder.html.j2."""
    top = axis_end((setting["apples"]["mean"], setting["apples"]["ci95"]) for setting in settings)
    rows = []
    for setting in sorted(settings, key=lambda setting: setting["apples"]["mean"]):
        apples = setting["apples"]
        by_seed = apples["by_seed"].values()
        rows.append(
            {
                "name": title(setting["choice"]),
                "kind": "model",
                "runs": [round(100 * mean / top, 2) for mean in by_seed] if len(by_seed) > 1 else [],
                **on_axis(apples["mean"], apples["ci95"], top),
            }
        )
    return rows, top


def _apples_of(run: Mapping[str, Any], settings: list[Mapping[str, Any]]) -> str:
    (setting,) = (setting for setting in settings if setting["name"] == run["setting"])
    return f"{setting['apples']['by_seed'][str(run['seed'])]:.2f}"
