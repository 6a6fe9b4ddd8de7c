"""Grids, and runs of them that look finished without having been trained, for the tests of ablations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.run_dir import write_status
from snake_dist.evaluation.episodes import game_seeds
from snake_dist.evaluation.judge import Games
from snake_dist.evaluation.player import HeuristicPlayer
from snake_dist.evaluation.report import write_report
from snake_dist.heuristics.policies import POLICIES

PRESETS: dict[str, Any] = {
    "base": {"max-steps": 3, "play-games": 12},
    "grid": {"preset": ["lightweight", "balanced"]},
    "seeds": [0, 1],
}


def write_grid(directory: Path, spec: dict[str, Any] | str = PRESETS) -> Path:
    """The YAML of a grid (JSON is YAML)."""
    path = directory / "grid.yaml"
    path.write_text(spec if isinstance(spec, str) else json.dumps(spec))
    return path


def finish_run(run: Path, policy: str, num_games: int = 12, max_steps: int = 60) -> None:
    """What a finished run leaves, as far as an ablation reads it; its adapter plays as the heuristic does."""
    games = Games(5, "classic", game_seeds(num_games), max_steps)
    with games.log(run / "report/games", "adapter", "model", policy) as log:
        games.play(HeuristicPlayer(POLICIES[policy]), log=log)
    summary = {"legal_move_rate": {"value": 1.0}}
    write_report(run / "report", {"players": {"adapter": summary}}, games.settings())
    training = {"eval/loss": 0.5, "num_tokens": 1000, "seconds": 7.0}
    (run / "summary.json").write_text(json.dumps({"training": training, "play": {"players": {"adapter": summary}}}))
    write_status(run, "finished", step=3, num_steps=3, checkpoint=None, restarts=0, started_at=0)
