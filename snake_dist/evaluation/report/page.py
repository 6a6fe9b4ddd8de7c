"""The report as one HTML page: no server, no network, opens from disk.

All data come from the report's directory: the numbers from report.json, the replays from games/*.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.game_log import FORMAT, Header, read_log
from snake_dist.evaluation.report.page_rows import (
    ends_table,
    gain_sentences,
    ladder_rows,
    metric_table,
    training_curves,
)
from snake_dist.files import GAMES_DIR, PAGE, REPORT, write_text_atomically
from snake_dist.game.board import End
from snake_dist.game.rules import new_game

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("engine.js", "board.js", "replay.js", "human.js")
NUM_REPLAYS = 8
"""Games of each player on the page: those of the first seeds."""
START = "Replay.start(DATA); Human.start(DATA);"
END_TEXT = {
    End.WALL: "wall", End.SELF: "own body", End.REVERSAL: "turned back", End.TRAPPED: "trapped",
    End.STARVED: "starved", End.INVALID_REPLY: "no move named", End.STEP_CAP: "stopped alive",
    End.BOARD_FULL: "board filled",
}  # fmt: skip


def write_page(directory: Path, runs: Mapping[str, Path] | None = None) -> Path:
    """Write `report.html` beside `report.json`, whole or not at all; returns its path.

    `runs`: training run directories by label, for the loss and play curves.
    """
    report = json.loads((directory / REPORT).read_text(encoding="utf-8"))
    settings = report["settings"]
    seeds = range(settings["first_seed"], settings["first_seed"] + settings["games"])
    logs = [read_log(path, check=False) for path in sorted((directory / GAMES_DIR).glob("*.jsonl"))]
    games = [pair for log in logs for pair in log if pair[0].player in report["players"] and pair[1].seed in seeds]
    games.sort(key=lambda pair: (list(report["players"]).index(pair[0].player), pair[1].seed))
    path = directory / PAGE
    write_text_atomically(path, _render(report, seeds, games, runs or {}))
    return path


def _render(
    report: Mapping[str, Any], seeds: range, games: Sequence[tuple[Header, Episode]], runs: Mapping[str, Path]
) -> str:
    from markupsafe import Markup

    settings, players = report["settings"], report["players"]
    kinds = {header.player: header.kind for header, _ in games}
    ladder, axis_max = ladder_rows(players, kinds, settings)
    ends = [end.value for end in End if any(summary["ends"][end.value] for summary in players.values())]
    # "<" never stands inside a script element, so no text of a model can close it.
    data = json.dumps(_page_data(settings, seeds, games), separators=(",", ":")).replace("<", "\\u003c")
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return template("page.html.j2").render(
        title="Snake: who plays how well",
        conditions=_conditions(settings),
        symmetry=settings["symmetry"],
        css=style_sheet(),
        js=Markup(f'{scripts}\nconst DATA = JSON.parse(document.getElementById("data").textContent);\n{START}'),
        data=Markup(data),
        ladder=ladder,
        ladder_label="Mean apples per game of each player with 95 % intervals, from weak to strong",
        axis_max=axis_max,
        published=any(row["kind"] == "published" for row in ladder),
        has_human="human" in kinds.values(),
        gains=gain_sentences(report["gain_over_base"]),
        replays=bool(games),
        ends=ends_table(players, ends),
        ends_seen=ends,
        end_text={end.value: text for end, text in END_TEXT.items()},
        players=list(players),
        metrics=metric_table(players, report["state_bank"]),
        trained=report.get("trained_positions", {}) if report["state_bank"] else {},
        curves=training_curves(runs),
    )


def template(name: str) -> Any:
    """Return a template of `ASSETS`, which escapes its values and fails for a missing one."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def style_sheet() -> Any:
    """Return the text of a page's style element."""
    from markupsafe import Markup

    return Markup((ASSETS / "page.css").read_text(encoding="utf-8"))


def _conditions(settings: Mapping[str, Any]) -> str:
    n, cap = settings["grid_size"], settings["max_steps"]
    seeds = f"{settings['games']} games a player, seeds from {settings['first_seed']:,} on, none of them trained on"
    stopped = f"; a game is stopped after {cap} moves" if cap else ""
    return f"{n} x {n} board, mode {settings['mode']}, {seeds}{stopped}. Replies are parsed strictly, never repaired."


def _page_data(settings: Mapping[str, Any], seeds: range, games: Sequence[tuple[Header, Episode]]) -> dict[str, Any]:
    """Return the data of the page's scripts: settings, the start of each game, the games to replay."""
    starts = {}
    for seed in seeds:
        state = new_game(settings["grid_size"], seed, settings["mode"])
        # The generator's state has 64 bits, more than a JSON number keeps.
        starts[seed] = {"rng": str(state.rng), "apple": state.apple, "obstacles": sorted(state.obstacles)}
    return {
        "format": FORMAT,
        "settings": {
            "grid_size": settings["grid_size"],
            "mode": settings["mode"],
            "max_steps": settings["max_steps"],
            "seeds": list(seeds),
        },
        "starts": starts,
        "games": [_replayed(header, game) for header, game in games if game.seed in seeds[:NUM_REPLAYS]],
    }


def _replayed(header: Header, game: Episode) -> dict[str, Any]:
    record: dict[str, Any] = {
        "player": header.player,
        "seed": game.seed,
        "moves": "".join(move[0] for move in game.moves),
        "ticks": game.num_decisions,
        "end": game.end,
    }
    if any(made > 1 for made in game.moves_made):
        record["made"] = game.moves_made
    if game.replies != game.moves:
        record["texts"] = game.replies
    if any(game.claims):
        record["claims"] = [[[c.start, c.end, int(c.true)] for c in claims] for claims in game.claims]
    return record
