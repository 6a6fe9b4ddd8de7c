"""A guarded regression: minutes of training on 6x6, with the real pretrained model, must keep beating a floor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
RECIPE = "launcher/recipes/climb/small-boards.yaml"
MIN_MEAN_APPLES = 14.9
"""What greedy eats on this board (random legal moves 5.3, BFS 16.2, this recipe 26.8 when it was written)."""


@pytest.mark.slow
def test_the_first_stage_still_learns_to_play(tmp_path: Path) -> None:
    recipe = yaml.safe_load((REPOSITORY / RECIPE).read_text())
    recipe |= {"stages": recipe["stages"][:1], "play": {"games": 40, "bank-states": 0}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "launcher/climb.py", "--recipe", str(tmp_path / "recipe.yaml")]
    subprocess.run([*command, "--output", str(tmp_path / "climb")], cwd=REPOSITORY, check=True, timeout=3600)
    [stage] = json.loads((tmp_path / "climb/climb.json").read_text())["stages"]
    assert stage["apples"]["ci95"][0] > MIN_MEAN_APPLES, stage
    assert stage["legal_move_rate"]["value"] > 0.97, stage
