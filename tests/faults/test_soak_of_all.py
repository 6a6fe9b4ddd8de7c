"""Training, play and climbs under every fault at random moments, for an hour: each ends as the untouched one.

SNAKE_DIST_SOAK_S sets the seconds, SNAKE_DIST_SOAK_SEED the seed, which the test prints.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from snake_dist.files import ADAPTER_DIR
from tests.support import soak
from tests.support.faults import slow_steps
from tests.support.processes import ROOT, launcher, run_program
from tests.support.run_checks import adapter_hash
from tests.support.train_ranks import flags_of, launch
from tests.support.wandb_server import WandbServer

STAGES = (0, 2, 3)
RECIPE = """
train: {{base-model: {model}, base-dtype: float32, rank: 4, dropout: 0.3, global-batch-size: 8, micro-batch-size: 4,
  play-games: 0, eval-games: 0, wandb-mode: disabled, held-out-share: 0.2, max-steps: 6, save-every: 2}}
play: {{games: 2, max-steps: 3, bank-states: 4}}
generate: {{policy: bfs-safe, grid-size: 5, games: 6}}
stages:
- name: short
  generate: {{max-snake-length: 4, max-lines-per-length: 3}}
- name: own-games
  generate: {{games: 3, seed: 50, max-lines-per-length: 2}}
  correct: {{games: 2, max-steps: 9, policy: bfs-safe, agreement-rate: 1}}
"""


def train_flags(model: Path, data: Path, run: Path, stage: int, wandb_mode: str) -> list[str]:
    options: dict[str, Any] = {"max_steps": 16, "save_every": 3, "eval_every": 5, "play_games": 2, "play_max_steps": 4}
    ds = ROOT / f"ds_configs/zero{stage}.json"
    options |= {"ds": ds, "wandb_mode": wandb_mode, "rank_timeout_s": soak.RANK_TIMEOUT_S}
    return flags_of(model, data, run, **options)


def play_flags(adapter: Path, report: Path) -> list[str]:
    games = ["--games", "6", "--max-steps", "5", "--bank-states", "6", "--no-ladder"]
    return ["--player", "adapter", str(adapter), *games, "--report", str(report)]


def numbers_of(report: Path) -> dict[str, Any]:
    """What the games and the bank showed, but for the speed."""
    numbers = json.loads((report / "report.json").read_text())
    for summary in numbers["players"].values():
        del summary["ms_per_move"], summary["moves_per_second"]
    return numbers


@pytest.fixture
def wandb() -> WandbServer:
    return WandbServer()


@pytest.fixture
def jobs(tmp_path, llama_dir, data, two_hosts, wandb) -> list[soak.Job]:  # noqa: ARG001 - skips before the oracles run
    oracles = tmp_path / "oracles"
    made = []
    for stage in STAGES:
        run = oracles / f"zero{stage}"
        done = launch(train_flags(llama_dir, data, run, stage, "disabled"), 2, tmp_path / "logs")
        assert done.codes == [0, 0], done.printed()

        def flags(place: Path, stage: int = stage) -> list[str]:
            return train_flags(llama_dir, data, place / "run", stage, "online")

        def check(place: Path, run: Path = run) -> None:
            soak.check_run(place / "run", run, wandb)

        injected = [(slow_steps, (0.1,)), (soak.impatient, (wandb.port,))]
        name, result = f"train, ZeRO {stage}", "run/status.json"
        made.append(soak.Job(name, soak.TRAIN_FAULTS, 9, flags, check, "train", result, injected=injected))

    adapter = oracles / "zero2" / ADAPTER_DIR
    done = launch(play_flags(adapter, oracles / "report"), 2, tmp_path / "logs-play", program="play")
    assert done.codes == [0, 0], done.printed()

    def check_play(place: Path) -> None:
        assert numbers_of(place / "report") == numbers_of(oracles / "report")
        assert soak.games_under(place / "report") == soak.games_under(oracles / "report")

    def flags_of_play(place: Path) -> list[str]:
        return play_flags(adapter, place / "report")

    injected, result = [(soak.impatient, (wandb.port,))], "report/report.html"
    made.append(soak.Job("play", soak.PLAY_FAULTS, 3, flags_of_play, check_play, "play", result, injected=injected))

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=llama_dir))

    def climb_flags(place: Path) -> list[str]:
        return ["--recipe", str(recipe), "--output", str(place / "climb")]

    done = run_program([*launcher("climb"), *climb_flags(oracles)], tmp_path)
    assert done.returncode == 0, done.stderr

    def check_climb(place: Path) -> None:
        for stage in ("1-short", "2-own-games"):
            assert adapter_hash(place / f"climb/{stage}/run") == adapter_hash(oracles / f"climb/{stage}/run")
            assert numbers_of(place / f"climb/{stage}/report") == numbers_of(oracles / f"climb/{stage}/report")
        assert soak.games_under(place / "climb") == soak.games_under(oracles / "climb")

    made.append(
        soak.Job("climb", soak.CLIMB_FAULTS, 60, climb_flags, check_climb, "climb", "climb/climb.json", on_hosts=False)
    )
    return made


@pytest.mark.slow
def test_an_hour_of_faults_changes_nothing(tmp_path, two_hosts, wandb, jobs):
    seed = int(os.environ.get("SNAKE_DIST_SOAK_SEED") or secrets.randbelow(1_000_000))
    seconds = float(os.environ.get("SNAKE_DIST_SOAK_S") or 3600)
    only = os.environ.get("SNAKE_DIST_SOAK_JOB", "")
    jobs = [job for job in jobs if job.name.startswith(only)]
    run = soak.Soak(two_hosts, tmp_path, random.Random(seed))
    run.say(f"soak of {seconds:g} s, SNAKE_DIST_SOAK_SEED={seed}")
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        soak.run_one(run, run.moments.choice(jobs), wandb, max_faults=run.moments.randrange(1, 7))
    for name, count in sorted(run.counts.items()):
        run.say(f"{name}: {count}")
