"""A guarded regression: minutes of training, with the real pretrained model, must beat a floor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.processes import ROOT, launcher, run_program


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe_name", "min_mean_apples"),
    [
        # What greedy eats on this board (random legal moves 5.3, BFS 16.2, this recipe 26.8 when it was written).
        ("small-boards", 14.9),
        # The same, of at most 15 apples (this recipe 14.8).
        ("exact-4x4", 10.2),
        # What BFS eats on 10x10 (98.1 before replies had three moves; not judged there since).
        ("ways", 28.3),
    ],
)
def test_the_first_stage_still_learns_to_play(tmp_path: Path, recipe_name: str, min_mean_apples: float) -> None:
    recipe = yaml.safe_load((ROOT / f"launcher/recipes/climb/{recipe_name}.yaml").read_text())
    recipe |= {"stages": recipe["stages"][:1], "play": recipe["play"] | {"games": 40, "bank-states": 0}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [*launcher("climb"), "--recipe", tmp_path / "recipe.yaml", "--output", tmp_path / "climb"]
    done = run_program(command, ROOT, timeout_s=14_400)
    assert done.returncode == 0, done.stderr[-3000:]
    [stage] = json.loads((tmp_path / "climb/climb.json").read_text())["stages"]
    assert stage["apples"]["ci95"][0] > min_mean_apples, stage
    assert stage["legal_move_rate"]["value"] > 0.97, stage
