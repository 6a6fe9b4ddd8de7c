"""Play games and report them: a heuristic, a base model, or an adapter beside its base.

python launcher/play.py --player bfs-safe --grid-size 10 --games 500 --seed-range dev
python launcher/play.py --player adapter DIR --games 200 --report DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from snake_dist.errors import InputError
from snake_dist.run_config import parse_dataclass, run_launcher


@dataclass(frozen=True)
class Play:
    """Play held-out games of Snake and report them."""

    player: tuple[str, ...]
    """A heuristic's name, base, or adapter DIR (which also plays its base model)."""
    games: int = 200
    """Games per player."""
    grid_size: int | None = None
    """N of the N x N board; default: the adapter's, else 10."""
    mode: Literal["auto", "classic", "wrap", "obstacles"] = "auto"
    """Rules of the board; auto: the adapter's, else classic."""
    max_steps: int = 0
    """A game that has made so many moves is stopped and counted as step_cap; 0: no limit."""
    seed_range: Literal["train", "dev", "test"] = "test"
    """Which published range of seeds the games come from."""
    base_model: str = "smollm2-135m"
    """For --player base: hub id, local directory, or smollm2-135m."""
    style: Literal["sentence", "board", "short", "compact"] = "compact"
    """For --player base: how a position is put to it."""
    report: Path | None = None
    """Directory for report.json."""


def show_progress(bar: Any, finished: int, replies: int) -> None:
    bar.set_postfix_str(f"{replies} moves", refresh=False)
    bar.update(finished - bar.n)


def main(argv: list[str]) -> None:
    config = parse_dataclass(Play, argv)

    from tqdm import tqdm

    from snake_dist.evaluation.episodes import game_seeds
    from snake_dist.evaluation.judge import Games
    from snake_dist.evaluation.players import find_players
    from snake_dist.evaluation.report import render_table, write_report

    if config.games < 1:
        raise InputError(f"--games {config.games}: at least 1")
    players, grid_size, mode = find_players(config.player, config.base_model, config.style)
    games = Games(
        config.grid_size or grid_size,
        mode if config.mode == "auto" else config.mode,
        game_seeds(config.games, config.seed_range),
        config.max_steps,
    )
    summaries = {}
    for name, player in players.items():
        with tqdm(total=config.games, desc=name, unit="game") as bar:
            summaries[name] = games.play(player, partial(show_progress, bar))
    print(render_table(summaries))
    if config.report is not None:
        settings = {"grid_size": games.grid_size, "mode": games.mode, "max_steps": games.max_steps}
        settings |= {"seed_range": config.seed_range, "first_seed": games.seeds[0], "games": config.games}
        print(f"report: {write_report(config.report, {'players': summaries}, settings)}")


if __name__ == "__main__":
    run_launcher(main)
