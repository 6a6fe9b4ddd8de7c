"""Grids, and runs of them that look finished without having been trained, for the tests of ablations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.run_dir import Status, write_status
from snake_dist.evaluation.judging.episodes import Games, game_seeds, play_games
from snake_dist.evaluation.judging.game_log import open_log
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.evaluation.report.numbers import write_report
from snake_dist.heuristics.policies import POLICIES
from tests.support.processes import ROOT

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
    with open_log(run / "report/games", games, "adapter", "model", policy) as log:
        play_games(HeuristicPlayer(POLICIES[policy]), games, on_finished=log.append)
    summary = {"legal_move_rate": {"value": 1.0}}
    write_report(run / "report", {"players": {"adapter": summary}}, games.settings())
    training = {"eval/loss": 0.5, "num_tokens": 1000, "seconds": 7.0}
    (run / "summary.json").write_text(json.dumps({"training": training, "play": {"players": {"adapter": summary}}}))
    write_status(run, Status("finished", step=3, num_steps=3))


TRAINER = """
import pathlib, runpy, sys
runpy.run_path("stub.py")
from tests.support.ablations import finish_run
run = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
if '"finished"' in (run / "status.json").read_text():
    finish_run(run, "greedy" if "balanced" in run.name else "random-legal")
"""
"""A launcher/train.py that trains nothing, keeps its contract, and leaves what a finished run does."""


def with_trainer(directory: Path) -> Path:
    """A directory to run in, as the repository's root, with such a trainer and the grid `PRESETS`."""
    (directory / "launcher").mkdir()
    shutil.copy(ROOT / "tests/support/stub_trainer.py", directory / "stub.py")
    (directory / "launcher/train.py").write_text(TRAINER)
    shutil.copy(ROOT / "launcher/ablate.py", directory / "launcher/ablate.py")
    (directory / "stub.json").write_text('{"steps": 3, "step_s": 0}')
    write_grid(directory)
    return directory
