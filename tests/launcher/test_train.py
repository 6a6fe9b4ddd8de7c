"""The launchers as users type them, as processes: one rank, torchrun, deepspeed; and what bad input gets them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from snake_dist.errors import InputError
from snake_dist.run.config import parse_run_config
from snake_dist.run.finetune import finetune
from tests.support.faults import replace
from tests.support.processes import BIN, ROOT, free_port, run_program
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, logged, tiny_data
from tests.support.tiny_models import tiny_model
from tests.support.train_ranks import launch

TRAIN = str(ROOT / "launcher/train.py")
STARTERS = ("python", "torchrun", "deepspeed")


def started_by(starter: str, program: str | Path = TRAIN) -> list[str]:
    """The command that runs the program: on one rank of plain Python, on two of the others."""
    two_ranks = {
        "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"],
        "deepspeed": [str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port", str(free_port())],
    }
    return [*two_ranks.get(starter, [sys.executable]), str(program)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("games") / "data")


def test_every_launcher_runs_the_same_file_on_the_same_examples(tmp_path, llama_dir, data):
    for name in STARTERS:
        flags = (
            f"--base-model {llama_dir} --data {data} --output-dir {tmp_path / name} --base-dtype float32 --rank 4 "
            "--dropout 0.5 --max-steps 3 --micro-batch-size 2 --learning-rate 1e-2 --held-out-share 0.2 "
            f"--play-games 2 --play-max-steps 5 --ds {ROOT / 'ds_configs/zero2.json'}"
        )
        done = run_program([*started_by(name), *flags.split()], tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        check_the_run(tmp_path / name, done.stdout, world_size=1 if name == "python" else 2)
    # Equal losses at every step, dropout included: the same examples, in the same micro-batches.
    losses = [logged(tmp_path / name, "train/loss") for name in STARTERS]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    assert losses[2] == pytest.approx(losses[0], abs=2e-5)
    for name, tensor in adapter_tensors(tmp_path / "python").items():
        assert (adapter_tensors(tmp_path / "deepspeed")[name] - tensor).abs().max() < 2e-4


def check_the_run(output: Path, printed: str, world_size: int) -> None:
    """A finished run leaves everything the README names."""
    assert "apples per game" in printed
    assert str(output) in printed
    summary = json.loads((output / "summary.json").read_text())
    assert summary["world_size"] == world_size
    players = summary["play"]["players"]
    assert players.keys() >= {"base", "adapter", "greedy", "bfs-safe"}
    assert all(sum(player["ends"].values()) == player["games"] == 2 for player in players.values())
    assert summary["play"]["state_bank"]["adapter"]["n"] > 0
    last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3
    assert "play/players/adapter/apples/mean" in last
    assert str(output / "report/report.html") in printed
    assert "Training" in (output / "report/report.html").read_text()
    assert list((output / "wandb").glob("offline-run-*/files/media/html/report*.html"))
    assert {path.stem for path in (output / "report/games").iterdir()} == players.keys()
    assert (output / "config.yaml").exists()
    assert '"auto"' not in (output / "ds_config.json").read_text()


def small_bank() -> None:
    """On a rank: ask each model about a few positions of the state bank only."""
    from snake_dist.run import games

    replace(games, "NUM_BANK_STATES", 10)


def train_here(flags: tuple[object, ...], directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What one rank of the launcher, started in `directory`, prints."""
    monkeypatch.chdir(directory)
    done = launch([str(flag) for flag in flags], 1, directory / "logs", [(0, small_bank, ())])
    assert done.codes == [0], done.printed()
    return done.printed()


@pytest.mark.slow
def test_a_gpt2_needs_no_extra_flag(tmp_path, monkeypatch, data):
    model = tiny_model(tmp_path / "gpt2", "gpt2")
    flags = ("--base-model", model, "--data", data, "--max-steps", 2, "--play-games", 1, "--output-dir", "out")
    train_here(flags, tmp_path, monkeypatch)
    assert json.loads((tmp_path / "out/summary.json").read_text())["packed"]


def sentence_lines(num_games: int) -> str:
    """Lines as third parties bring them: v0.04 sentences, prompt and completion only, game after game."""
    from snake_dist.game.rules import new_game, step
    from snake_dist.heuristics.policies import bfs
    from snake_dist.styles.catalog import render_completion, render_prompt

    lines = []
    for seed in range(num_games):
        state = new_game(6, seed)
        for _ in range(6):
            move = bfs(state)
            completion = render_completion(state, move, "sentence", "bfs")
            lines.append(json.dumps({"prompt": render_prompt(state, "sentence"), "completion": completion}))
            state = step(state, move)
    return "\n".join(lines) + "\n"


def test_third_party_lines_train_as_they_are(tmp_path, monkeypatch, llama_dir):
    (tmp_path / "theirs.jsonl").write_text(sentence_lines(num_games=8))
    flags = ("--base-model", llama_dir, "--data", "*.jsonl", "--max-steps", 2, "--play-games", 1, "--output-dir", "out")
    flags += ("--sequence-length", 1500, "--held-out-share", 0.25, "--wandb-mode", "disabled")
    train_here(flags, tmp_path, monkeypatch)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["board"] == {"grid_size": 6, "mode": "classic", "style": "sentence"}
    assert (summary["data"]["train_examples"], summary["data"]["eval_examples"]) == (36, 12)


def test_lines_of_no_known_style_train_and_say_why_no_games_are_played(tmp_path, monkeypatch, llama_dir):
    (tmp_path / "theirs.jsonl").write_text('{"prompt": "2 + 2?", "completion": "4"}\n' * 500)
    flags = ("--base-model", llama_dir, "--data", "theirs.jsonl", "--max-steps", 2, "--output-dir", "out")
    flags += ("--wandb-mode", "disabled")
    printed = train_here(flags, tmp_path, monkeypatch)
    assert "none: the prompts are of no known style" in printed


BAD_INPUT = {
    "adapter": (["--adapter", "lroa"], "lroa", "rslora"),
    "preset": (["--preset", "big"], "big", "lightweight"),
    "mode": (["--mode", "torus"], "torus", "obstacles"),
    "style": (["--style", "haiku"], "haiku", "compact"),
    "missing data": (["--data", "missing.jsonl"], "missing.jsonl", "no such file"),
    "missing ds": (["--ds", "missing.json"], "missing.json", "No such file"),
    "missing base": (["--base-model", "no/such-model"], "no/such-model", "smollm2-135m"),
    "batch": (["--global-batch-size", "1"], "1", "the number of ranks, 2"),
    "output": (["--output-dir", "/proc/no"], "/proc/no", "cannot be written"),
    "bad line": (["--data", "torn.jsonl"], "torn.jsonl:2", "torn or invalid JSON"),
    "grid": (["--grid-size", "3"], "3", "4 to 50"),
}


@pytest.fixture
def bad_flags(tmp_path, llama_dir) -> dict[str, list[str]]:
    """The flags of each bad input; they name files of `tmp_path`."""
    (tmp_path / "torn.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "comp\n')
    usual = ["--base-model", str(llama_dir), "--output-dir", "out"]
    return {name: [*usual, *flags] for name, (flags, _, _) in BAD_INPUT.items()}


def refusals(directory: Path, argvs: list[list[str]]) -> list[str]:
    """On a rank: its error for each command line. A model that is loaded is no InputError."""
    replace(AutoModelForCausalLM, "from_pretrained", None)
    os.chdir(directory)
    said = []
    for argv in argvs:
        with pytest.raises(InputError) as problem:
            finetune(parse_run_config(argv))
        said.append(str(problem.value))
    return said


def test_bad_input_is_one_line_on_every_rank_before_a_model_loads(tmp_path, bad_flags):
    first, second = run_on_ranks(refusals, 2, tmp_path, list(bad_flags.values()))
    for (_, value, choices), error, of_rank_1 in zip(BAD_INPUT.values(), first, second, strict=True):
        assert value in error
        assert choices in error
        assert "\n" not in error
        assert of_rank_1 in ("", error), "rank 0 speaks for what it alone has looked at"
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("starter", STARTERS)
def test_bad_input_is_said_once_by_all_ranks_together(tmp_path, bad_flags, starter):
    done = run_program([*started_by(starter), *bad_flags["missing data"]], tmp_path)
    assert done.returncode == 2 if starter == "python" else done.returncode != 0
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "train.py: error: " in line]
    assert len(errors) == 1, done.stderr
    assert "missing.jsonl" in errors[0]
    # torchrun reports the failed processes in a way of its own; ours must not.
    assert starter == "torchrun" or "Traceback" not in done.stderr
    assert starter != "python" or done.stderr.strip() == errors[0]


@pytest.mark.parametrize("starter", STARTERS[1:])
def test_bad_input_is_said_though_rank_0_is_the_last_to_find_it(tmp_path, starter):
    program = tmp_path / "slow_rank_0.py"
    program.write_text(
        "import os, time\n"
        "from snake_dist.errors import InputError\n"
        "from snake_dist.cli import run_launcher\n"
        "def main(argv):\n"
        "    time.sleep(3 * (os.environ['RANK'] == '0'))\n"
        "    raise InputError('--adapter lroa')\n"
        "run_launcher(main)\n"
    )
    done = run_program(started_by(starter, program), tmp_path)
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count("slow_rank_0.py: error: --adapter lroa") == 1, done.stderr


def test_an_error_stands_on_a_line_of_its_own_though_a_bar_is_drawn(tmp_path):
    program = tmp_path / "with_bar.py"
    program.write_text(
        "from tqdm import tqdm\n"
        "from snake_dist.errors import InputError\n"
        "from snake_dist.cli import run_launcher\n"
        "def main(argv):\n"
        "    for _ in tqdm(range(3)):\n"
        "        raise InputError('no space left')\n"
        "run_launcher(main)\n"
    )
    done = run_program([sys.executable, program], tmp_path)
    assert done.returncode == 2
    lines = [line for written in done.stderr.splitlines() if (line := written.split("\r")[-1].strip())]
    assert "with_bar.py: error: no space left" in lines, done.stderr


def test_an_error_stands_alone_without_pytorchs_own_warnings(tmp_path):
    """Here of a rank that is gone; on a GPU of a group that an error leaves."""
    program = tmp_path / "alone.py"
    program.write_text(
        "from datetime import timedelta\n"
        "from snake_dist.errors import InputError\n"
        "from snake_dist.cli import run_launcher\n"
        "def main(argv):\n"
        "    from torch.distributed import TCPStore\n"
        "    server = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)\n"
        "    client = TCPStore('127.0.0.1', server.port, wait_for_workers=False, timeout=timedelta(seconds=5))\n"
        "    del server\n"
        "    try:\n"
        "        client.get('a rank')\n"
        "    except RuntimeError:\n"
        "        raise InputError('nobody is there') from None\n"
        "run_launcher(main)\n"
    )
    done = run_program([sys.executable, program], tmp_path)
    assert done.stderr == "alone.py: error: nobody is there\n"


@pytest.mark.slow
def test_the_default_run_beats_its_base_by_more_than_chance(tmp_path):
    """What `make train` shows, for real: SmolLM2-135M, two DeepSpeed ranks, generated data, games at the end."""
    command = [
        BIN / "deepspeed",
        "--master_port",
        str(free_port()),
        TRAIN,
        "--ds",
        ROOT / "ds_configs/zero2.json",
        "--output-dir",
        "out",
        "--play-games",
        "60",  # the run's 20 are too few to tell 1 apple from 0.25
    ]
    done = run_program(command, tmp_path, timeout_s=3600, LOCAL_SIZE="2")
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["world_size"] == 2
    assert summary["training"]["train/loss"] < 0.2 * summary["training"]["first_loss"]
    legal = {name: summary["play"]["players"][name]["legal_move_rate"] for name in ("base", "adapter")}
    assert legal["adapter"]["ci95"][0] > legal["base"]["ci95"][1]
    apples = {name: summary["play"]["players"][name]["apples"] for name in ("random-legal", "adapter")}
    assert apples["adapter"]["ci95"][0] > apples["random-legal"]["ci95"][1]
