"""The tree is the architecture: which room may import which, and no cycle between files."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import snake_dist

PACKAGE = Path(snake_dist.__file__).parent
LAUNCHERS = PACKAGE.parent / "launcher"
GROUND = {"errors", "files", "cores", "recipes", "accelerator", "segments"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "cores": {"errors"},
    "accelerator": set(),
    "segments": set(),
    "recipes": {"errors"},
    "cli": GROUND | {"cluster"},
    "doctor": GROUND | {"model"},
    "game": GROUND,
    "model": GROUND,
    "zero": GROUND,
    "cluster": GROUND,
    "heuristics": GROUND | {"game"},
    "styles": GROUND | {"game", "heuristics"},
    "data": GROUND | {"game", "heuristics", "styles"},
    "checkpoint": GROUND | {"model"},
    "training": GROUND | {"data", "zero"},
    "evaluation/players": GROUND | {"game", "heuristics", "styles", "data", "model", "checkpoint"},
    "evaluation/judging": GROUND | {"game", "heuristics", "styles", "evaluation/players"},
    "evaluation/report": GROUND | {"game", "heuristics", "styles", "evaluation/players", "evaluation/judging"},
    "evaluation/play": GROUND
    | {"game", "styles", "data", "evaluation/players", "evaluation/judging", "evaluation/report"},
    "planning": GROUND | {"model", "data", "zero", "checkpoint"},
}
"""What each room may import. A key is a folder of the package or a file of its root, a path below `snake_dist`."""
ALLOWED["run"] = ALLOWED.keys() - {"planning"}
ALLOWED["ablation"] = (
    GROUND
    | {"cli", "run", "cluster", "checkpoint"}
    | {f"evaluation/{r}" for r in ("players", "judging", "report", "play")}
)
ALLOWED["climb"] = ALLOWED["ablation"] | {"data", "game", "heuristics", "styles"}
ALLOWED["verbs"] = ALLOWED.keys() - {"verbs"}
ALLOWED["__main__"] = {"cli", "verbs"}
MAX_FLOORS = 9
"""The verbs, which launcher/ opens too, are the highest; `__main__` only chooses one."""
MAX_FILE_LINES = 280
MAX_FUNCTION_LINES = 65
HEAVY = ("torch", "transformers", "deepspeed", "peft", "scipy", "wandb")


@cache
def files() -> dict[str, ast.Module]:
    """Every module of the package, by its path below `snake_dist` without the suffix."""
    paths = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def room_of(name: str) -> str:
    """The longest key of the table that is the file, or a folder above it."""
    above = [name, *(parent.as_posix() for parent in Path(name).parents)]
    return next((part for part in above if part in ALLOWED), "")


def imported_files(name: str) -> set[str]:
    """The package's files that a file imports anywhere, also late and for type checking."""
    modules = set()
    for node in ast.walk(files()[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    paths = {module.removeprefix("snake_dist.").replace(".", "/") for module in modules if "snake_dist." in module}
    return paths & files().keys() - {name}


@pytest.mark.parametrize("name", sorted(name for name in files() if Path(name).name != "__init__"))
def test_a_file_imports_only_what_the_table_allows_its_room(name):
    room = room_of(name)
    assert room, f"{name} stands in no room of the table"
    others = {room_of(other) for other in imported_files(name)} - {room}
    assert others <= ALLOWED[room], name


def test_no_room_of_the_table_is_empty():
    assert {room_of(name) for name in files()} >= ALLOWED.keys()


def test_no_import_goes_round_in_a_circle_and_the_graph_is_not_deep():
    TopologicalSorter({name: imported_files(name) for name in files()}).prepare()  # raises CycleError
    rooms: dict[str, set[str]] = {}
    for name in files():
        room = Path(name).parts[0]
        rooms[room] = rooms.get(room, set()) | {Path(other).parts[0] for other in imported_files(name)} - {room}
    floor: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        floor[room] = 1 + max((floor[other] for other in rooms[room]), default=0)
    assert max(floor.values()) <= MAX_FLOORS, floor


@pytest.mark.parametrize("name", sorted(files()))
def test_files_and_functions_stay_short(name):
    lines = (PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_FILE_LINES
    functions = [node for node in ast.walk(files()[name]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("launcher", [path.name for path in sorted(LAUNCHERS.glob("*.py"))])
def test_launchers_are_short_and_answer_help_without_heavy_imports(launcher):
    path = LAUNCHERS / launcher
    assert len((PACKAGE / "verbs" / launcher).read_text().splitlines()) <= 85
    code = (
        "import runpy, sys, atexit\n"
        f"atexit.register(lambda: print('loaded:', [m for m in {HEAVY} if m in sys.modules]))\n"
        f"sys.argv = [{str(path)!r}, '--help']; runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
    assert "loaded: []" in done.stdout
