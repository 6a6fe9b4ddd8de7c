"""The tree is the architecture: which room may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path("snake_dist")
ALLOWED = {
    "game": set(),
    "model": set(),
    "cluster": set(),
    "heuristics": {"game"},
    "data": {"game", "heuristics"},
    "checkpoint": {"model"},
    "training": {"data", "checkpoint"},
    "evaluation": {"game", "heuristics", "data", "model", "checkpoint"},
}
# Above the rooms: they compose, and no room imports them.
COMPOSERS = {
    "run_config",
    "run_data",
    "preparation",
    "session",
    "run_judge",
    "run_training",
    "summary",
    "finetune",
    "run_plan",
    "plan_sizes",
    "plan_text",
    "ablation_grid",
    "run_ablation",
    "run_correction",
    "run_climb",
    "climb_results",
}
HEAVY = ("torch", "transformers", "deepspeed", "peft", "scipy", "wandb")


def imported_rooms(path: Path) -> set[str]:
    """Second parts of `snake_dist.X` imported anywhere in the file, also late and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        parts = (name.split(".") for name in names)
        found |= {part[1] for part in parts if len(part) > 1 and part[0] == "snake_dist"}
    return found & (ALLOWED.keys() | COMPOSERS | {"launcher"})


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_what_the_table_allows(room):
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        assert imported_rooms(path) <= ALLOWED[room] | {room}, path


def test_every_file_has_a_place_in_the_table():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == ALLOWED.keys()
    assert {path.stem for path in PACKAGE.glob("*.py")} == COMPOSERS | {"__init__", "errors"}


@pytest.mark.parametrize("launcher", [path.name for path in sorted(Path("launcher").glob("*.py"))])
def test_launchers_are_short_and_answer_help_without_heavy_imports(launcher):
    path = Path("launcher") / launcher
    assert len(path.read_text().splitlines()) <= 85
    code = (
        "import runpy, sys, atexit\n"
        f"atexit.register(lambda: print('loaded:', [m for m in {HEAVY} if m in sys.modules]))\n"
        f"sys.argv = [{str(path)!r}, '--help']; runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert "loaded: []" in done.stdout
