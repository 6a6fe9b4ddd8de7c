"""The pages as a site, and what docs/support.md says is proven."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from snake_dist.__main__ import VERBS
from snake_dist.files import METRICS
from tests.support.processes import ROOT, run_program

SUPPORT = (ROOT / "docs/support.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SUPPORT + (ROOT / "SECURITY.md").read_text())))


def test_the_site_is_built_strictly_with_its_reference_pages(tmp_path):
    done = run_program([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"], ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    flags = (tmp_path / "site/reference/flags/index.html").read_text()
    for verb in VERBS:
        assert f'id="{verb}"' in flags
    for flag in ("--learning-rate", "--policy", "--seed-range", "--gpu-memory", "--nodes", "--agreement-rate"):
        assert flag in flags
    metrics = (tmp_path / "site/reference/metrics/index.html").read_text()
    for name in ("train/loss", "eval/loss", "legal_move_rate", METRICS):
        assert name in metrics
    assert not list((tmp_path / "site").rglob("*.py"))


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"- ([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed
    assert listed - pages == {"reference/flags.md", "reference/metrics.md"}


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda part: part.rsplit("/", 1)[-1])
def test_a_test_that_the_support_page_names_exists(file, test):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_mark_of_the_matrix_has_a_test_and_every_test_a_mark():
    legend = set(re.findall(r"^\| `(\w+)` \| `tests/", SUPPORT, re.MULTILINE))
    matrix = SUPPORT[: SUPPORT.index("### The tests")]
    used = {
        mark
        for line in matrix.splitlines()
        if line.startswith("| ")
        for mark in re.findall(r"\[([A-Z]\d?)\]\(#the-tests\)", line)
    }
    assert used == legend
    assert len(NAMED) >= len(legend)


def test_every_complaint_has_threads_and_a_test():
    rows = [line for line in SUPPORT[SUPPORT.index("## Their issue") :].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", row), row
        assert re.search(r"`tests/[\w/]+\.py::test_\w+` \|$", row), row
