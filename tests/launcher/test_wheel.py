"""The wheel as users install it: outside the checkout, its console script, its ready files, the main job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from snake_dist.__main__ import VERBS
from snake_dist.recipes import READY
from tests.support.processes import BIN, ROOT, free_port, run_program
from tests.support.runs import logged, tiny_flags

PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A directory with the installed wheel, to be PYTHONPATH; what the wheel requires is installed beside pytest."""
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    tree.mkdir()
    for name in ("snake_dist", "pyproject.toml", "README.md", "LICENSE"):
        (tree / name).symlink_to(ROOT / name)  # setuptools writes beside its sources
    made = run_program([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", place, tree], place)
    assert made.returncode == 0, made.stderr
    [wheel] = place.glob("*.whl")
    installed = run_program([*PIP, "install", "--no-deps", "--target", place / "site", wheel], place)
    assert installed.returncode == 0, installed.stderr
    return place / "site"


def run(site: Path, cwd: Path, *words: object) -> str:
    """What a program prints, outside the checkout, with nothing of ours but the installed wheel."""
    done = run_program(words, cwd, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def verb(site: Path, cwd: Path, text: str) -> str:
    """What `snake-dist` prints for these words."""
    return run(site, cwd, site / "bin/snake-dist", *text.split())


def test_the_main_job_runs_from_the_wheel_alone_and_under_a_launcher_of_ranks(site, tmp_path, llama_dir):
    where = run(site, tmp_path, sys.executable, "-c", "import snake_dist; print(snake_dist.__file__)")
    assert where.startswith(str(site))
    verb(site, tmp_path, "generate-data --grid-size 5 --games 6 --output data --workers 2")
    alone = tiny_flags(llama_dir, Path("data"), Path("alone"), ds="zero2")
    run(site, tmp_path, site / "bin/snake-dist", "train", *alone)
    ranks = [BIN / "deepspeed", "--num_accelerators", "2", "--master_port", free_port(), "--module", "snake_dist"]
    flags = tiny_flags(llama_dir, Path("data"), Path("two"), ds="zero2", play_games=1, play_max_steps=3)
    assert "apples per game" in run(site, tmp_path, *ranks, "train", *flags)
    assert json.loads((tmp_path / "two/summary.json").read_text())["world_size"] == 2
    assert logged(tmp_path / "two", "train/loss") == pytest.approx(logged(tmp_path / "alone", "train/loss"), abs=2e-5)
    assert (tmp_path / "two/report/report.html").is_file()


def test_commands_that_start_others_need_no_checkout(site, tmp_path):
    climb = verb(site, tmp_path, "climb --recipe fill-10x10 --output out --dry-run")
    assert climb.count("-m snake_dist train --ds zero2") == 2
    assert climb.count("-m snake_dist generate-data") == 7
    script = verb(site, tmp_path, "submit --recipe single_node --program play --dry-run")
    assert "    -m snake_dist play\n" in script
    local = verb(site, tmp_path, "submit --local --launcher deepspeed --ranks-per-node 2 --dry-run -- --ds zero3")
    assert "deepspeed --num_accelerators 2 --module snake_dist train --ds zero3" in local


def test_the_wheel_has_every_file_of_the_package_and_says_what_it_is(site):
    of_package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "snake_dist").rglob("*") if path.is_file()}
    [wheel] = site.parent.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert {name for name in of_package if "__pycache__" not in name} <= names
    [metadata] = [name for name in names if name.endswith("METADATA")]
    text = ZipFile(wheel).read(metadata).decode()
    for field in ("Summary: ", "License-Expression: MIT", "Project-URL: ", "Typing :: Typed", "Keywords: "):
        assert field in text


def test_an_unknown_verb_is_one_line(tmp_path):
    done = run_program([sys.executable, "-m", "snake_dist", "trian"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("snake-dist: error: 'trian'")
    assert len(done.stderr.splitlines()) == 1


def test_verbs_launchers_and_modules_are_the_same():
    modules = {path.stem for path in (ROOT / "snake_dist/verbs").glob("[a-z]*.py")}
    assert {verb.replace("-", "_") for verb in VERBS} == modules
    assert {path.stem for path in (ROOT / "launcher").glob("*.py")} == modules
    for name in modules:
        text = (ROOT / f"launcher/{name}.py").read_text()
        assert f"from snake_dist.verbs.{name} import main\n" in text
        assert len(text.splitlines()) < 20


def test_ready_recipes_are_where_users_look_for_them():
    assert (ROOT / "launcher/recipes").resolve() == READY
    assert (ROOT / "slurm/recipes").resolve() == READY / "slurm"
