"""Each script of examples/ runs as its first line says."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.processes import BIN, ROOT, run_program
from tests.support.runs import tiny_flags

EXAMPLES = ROOT / "examples"


def run(place: Path, *words: object, **variables: str) -> str:
    done = run_program(words, place, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_scripts_one_after_another(tmp_path, llama_dir):
    printed = run(tmp_path, sys.executable, EXAMPLES / "write_lines.py", "mine.jsonl")
    assert printed.endswith("snake-dist train --data mine.jsonl\n")
    flags = tiny_flags(llama_dir, tmp_path / "mine.jsonl", tmp_path / "run")
    *_, answer, adapter = run(tmp_path, sys.executable, EXAMPLES / "train_and_ask.py", *flags).splitlines()
    assert "means" in answer
    assert "legal: [" in answer
    assert (Path(adapter) / "adapter_model.safetensors").is_file()
    assert run(tmp_path, sys.executable, EXAMPLES / "ask_with_peft.py", adapter)


def test_the_report_of_heuristics(tmp_path):
    (tmp_path / "snake-dist").write_text(f'#!/bin/sh\nexec {sys.executable} -m snake_dist "$@"\n')
    (tmp_path / "snake-dist").chmod(0o755)
    path = f"{tmp_path}:{BIN}:/usr/bin:/bin"
    command = ["env", f"PATH={path}", "bash", EXAMPLES / "compare_heuristics.sh", "report"]
    assert "open report/report.html" in run(tmp_path, *command, GAMES="2")
    assert (tmp_path / "report/report.html").is_file()


def test_every_script_is_listed_and_run():
    page, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    for script in {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}:
        assert f"`{script}" in page
        assert f'"{script}"' in tests
