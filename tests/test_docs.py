"""What pages and docstrings point at exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.processes import ROOT

FOLDERS = ("snake_dist", "tests", "launcher", "docs", "slurm", "ds_configs", "benchmarks", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md")])
MODULES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def missing_paths(text: str) -> list[str]:
    """Words of the text that look like a file or folder of the repository and are none."""
    words = re.findall(rf"(?<![\w/.~-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]", text)
    return [word for word in words if not (ROOT / word).exists()]


def docstrings(path: Path) -> str:
    """All texts of a module that stand where a docstring may: also below a constant or a field."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    return "\n".join(line.value for line in lines if isinstance(line, ast.Constant) and isinstance(line.value, str))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_points_at_what_exists(page):
    text = page.read_text(encoding="utf-8")
    assert missing_paths(text) == []
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_docstrings_point_at_what_exists():
    missing = {path.relative_to(ROOT).as_posix(): missing_paths(docstrings(path)) for path in MODULES}
    assert {path: words for path, words in missing.items() if words} == {}


def test_contributing_names_what_exists():
    """Its paths leave out the folder above the room."""
    named = re.findall(r"`([\w/.]+(?:\.py|\.md|\.js|/))`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    exist = [any((ROOT / name).exists() or [*(ROOT / folder).rglob(name)] for folder in FOLDERS) for name in named]
    assert [name for name, it_does in zip(named, exist, strict=True) if not it_does] == []
    assert named
