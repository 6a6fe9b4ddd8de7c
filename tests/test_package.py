"""The few lines of Python that the README promises."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import snake_dist as sd
from snake_dist.errors import InputError
from tests.support.processes import run_program
from tests.support.runs import tiny_config, tiny_data

SCRIPT = """
import sys
import snake_dist as sd
from tests.support.runs import tiny_config

if __name__ == "__main__":
    model, data, output = sys.argv[1:]
    summary = sd.train(tiny_config(model, data, output), num_ranks=2)
    player = sd.load_player(summary["adapter_dir"])
    [reply] = player.replies([sd.new_game(grid_size=5, seed=sd.SEED_RANGES["test"][0])])
    print("world", summary["world_size"], "reply", repr(reply), "move", sd.parse_reply(reply))
"""


def test_everything_named_can_be_imported():
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sd.nothing


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(sd.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name.name: node.module for node in block.body for name in node.names}
    assert seen == sd._HOMES
    assert Path(sd.__file__).with_name("py.typed").is_file()


def test_train_on_new_ranks_then_ask_for_a_move(tmp_path, llama_dir):
    data = tiny_data(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_program([sys.executable, tmp_path / "script.py", llama_dir, data, tmp_path / "run"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "world 2 reply" in done.stdout


def test_bad_input_on_new_ranks_is_an_input_error_here(tmp_path, llama_dir):
    config = tiny_config(llama_dir, tmp_path / "missing", tmp_path / "run")
    with pytest.raises(InputError, match="missing"):
        sd.train(config, num_ranks=2)
