"""Play games and report them: heuristics, base models, adapters beside their base.

python launcher/play.py --player bfs-safe greedy --grid-size 10 --games 500 --seed-range dev
python launcher/play.py --player adapter DIR --games 200 --report DIR
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from snake_dist.errors import InputError
from snake_dist.run_config import parse_dataclass, run_launcher


@dataclass(frozen=True)
class Play:
    """Play held-out games of Snake and report them."""

    player: tuple[str, ...]
    """One or more of: a heuristic's name, base, adapter DIR... (each adapter also plays its base model)."""
    games: int = 200
    """Games per player."""
    grid_size: int | None = None
    """N of the N x N board; default: the adapter's, else 10."""
    mode: Literal["auto", "classic", "wrap", "obstacles"] = "auto"
    """Rules of the board; auto: the adapter's, else classic."""
    max_steps: int = 0
    """A game that has made so many moves is stopped and counted as step_cap; 0: no limit."""
    symmetry: int = 0
    """Show the board turned or mirrored: 1 flips x, 2 flips y, 3 both, 4 to 7 the same with x and y swapped."""
    seed_range: Literal["train", "dev", "test"] = "test"
    """Which published range of seeds the games come from."""
    base_model: str = "smollm2-135m"
    """For --player base: hub id, local directory, or smollm2-135m."""
    style: Literal["sentence", "board", "short", "compact"] = "compact"
    """For --player base: how a position is put to it."""
    report: Path | None = None
    """Directory for report.html, report.json and the log of every game; games that it holds are not played again."""
    bank_states: int = 200
    """With --report: unseen positions on which single moves are judged; 0: none."""
    ladder: bool = True
    """With --report: the heuristics from random-legal to hamiltonian play the same games."""


def main(argv: list[str]) -> None:
    config = parse_dataclass(Play, argv)

    from snake_dist.evaluation.comparison import compare
    from snake_dist.evaluation.episodes import game_seeds
    from snake_dist.evaluation.judge import Games
    from snake_dist.evaluation.page import write_page
    from snake_dist.evaluation.players import PlayerOptions, find_entrants, ladder_entrants, training_runs
    from snake_dist.evaluation.report import render_table, write_report

    for name, low in {"games": 1, "max_steps": 0, "symmetry": 0, "bank_states": 0}.items():
        if getattr(config, name) < low:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: at least {low}")
    if config.symmetry > 7:
        raise InputError(f"--symmetry {config.symmetry}: 0 to 7")
    entrants, board = find_entrants(config.player, PlayerOptions(config.base_model, config.style))
    if config.report and config.ladder:
        entrants += ladder_entrants(entrants)
    grid_size, mode = board or (10, "classic")
    games = Games(
        config.grid_size or grid_size,
        mode if config.mode == "auto" else config.mode,
        game_seeds(config.games, config.seed_range),
        config.max_steps,
        config.symmetry,
    )
    results = compare(entrants, games, config.report, config.bank_states if config.report else 0)
    print(render_table(results["players"]))
    if config.report is not None:
        path = write_report(config.report, results, games.settings() | {"seed_range": config.seed_range})
        print(f"report: {write_page(path.parent, training_runs(config.player))}")


if __name__ == "__main__":
    run_launcher(main)
