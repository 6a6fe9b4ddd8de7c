"""A guarded regression: minutes of training on 6x6, with the real pretrained model, must keep beating a floor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MIN_MEAN_APPLES = 12.0
"""Random legal moves eat 5.4 apples on this board, greedy 14.9, BFS 16.1."""


@pytest.mark.slow
def test_the_small_recipe_still_learns_to_play(tmp_path: Path) -> None:
    command = [sys.executable, "launcher/climb.py", "--recipe", "launcher/recipes/climb/small-6x6.yaml"]
    subprocess.run([*command, "--output", str(tmp_path)], cwd=REPOSITORY, check=True, timeout=3600)
    [stage] = json.loads((tmp_path / "climb.json").read_text())["stages"]
    assert stage["apples"]["ci95"][0] > MIN_MEAN_APPLES, stage
    assert stage["legal_move_rate"]["value"] > 0.97, stage
