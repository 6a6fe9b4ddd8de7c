"""Stopped and killed while it plays the games at its end: the run resumes with the games that are left."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults
from tests.support.processes import ROOT
from tests.support.run_checks import adapter_hash, status_of
from tests.support.train_ranks import flags_of, launch

NUM_GAMES = 3


def games_of(run: Path, player: str) -> list[dict[str, Any]]:
    """The player's log without what differs from one time to the next."""
    lines = (run / f"report/games/{player}.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "ms"} for line in lines]


def results_of(run: Path) -> dict[str, Any]:
    """What the games and the bank showed, but for the speed."""
    report = json.loads((run / "report/report.json").read_text())
    for summary in report["players"].values():
        del summary["ms_per_move"], summary["moves_per_second"]
    return report


@pytest.mark.slow
def test_a_judge_that_was_killed_and_stopped_goes_on_with_the_games_left(tmp_path, llama_dir, data):
    flags = {"max_steps": 2, "play_games": NUM_GAMES, "play_max_steps": 4, "ds": ROOT / "ds_configs/zero0.json"}
    oracle, run = tmp_path / "oracle", tmp_path / "run"
    done = launch(flags_of(llama_dir, data, oracle, **flags), 2, tmp_path / "logs")
    assert done.codes == [0, 0], done.printed()

    # Killed when the base has finished one of its games; the adapter has not begun.
    fault = (0, faults.at_game, (1, faults.die))
    done = launch(flags_of(llama_dir, data, run, **flags), 2, tmp_path / "logs-0", [fault])
    assert done.codes[0] == -signal.SIGKILL
    assert len(games_of(run, "base")) == 1
    # Asked to stop when it has finished the second, and not the third.
    fault = (0, faults.at_game, (1, faults.ask_to_stop, signal.SIGTERM))
    done = launch(flags_of(llama_dir, data, run, **flags), 2, tmp_path / "logs-1", [fault])
    assert done.codes == [0, 0], done.printed()
    status = status_of(run)
    assert (status["state"], status["step"]) == ("stopped", 2)
    assert not (run / "summary.json").exists()
    played = games_of(run, "base")
    assert len(played) >= 2
    assert games_of(run, "adapter") == []

    done = launch(flags_of(llama_dir, data, run, **flags), 2, tmp_path / "logs-2")
    assert done.codes == [0, 0], done.printed()
    assert status_of(run)["state"] == "finished"
    assert games_of(run, "base")[: len(played)] == played
    for player in ("base", "adapter", "bfs-safe"):
        games, expected = games_of(run, player), games_of(oracle, player)
        assert len(games) == NUM_GAMES, "none was played twice"
        assert sorted(games, key=lambda game: game["seed"]) == sorted(expected, key=lambda game: game["seed"])
    assert results_of(run) == results_of(oracle)
    assert adapter_hash(run) == adapter_hash(oracle)
