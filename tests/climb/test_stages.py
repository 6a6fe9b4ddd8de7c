"""A recipe of stages becomes commands; run, they train on from adapter to adapter and end in a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snake_dist.climb.stages import Climb, Step, read_climb
from snake_dist.errors import InputError
from snake_dist.files import lock_directory
from snake_dist.verbs.climb import main as climb
from tests.support.processes import ROOT, launcher, run_program
from tests.support.runs import adapter_tensors
from tests.support.tiny_models import tiny_llama

TRAIN = """
train: {{base-model: {model}, base-dtype: float32, rank: 4, dropout: 0.0, global-batch-size: 8, micro-batch-size: 4,
  play-games: 0, eval-games: 0, wandb-mode: disabled, held-out-share: 0.2, max-steps: 2}}
play: {{games: 2, max-steps: 3, bank-states: 4, no-such: 1}}
""".replace(", no-such: 1", "")
STAGES = """
generate: {policy: bfs-safe, grid-size: 5, games: 6}
stages:
- name: short
  generate: {max-snake-length: 4, max-lines-per-length: 3}
- name: own-games
  generate:
  - {games: 3, seed: 50, max-lines-per-length: 2}
  correct: {games: 2, max-steps: 9, policy: bfs-safe, agreement-rate: 1}
  train: {max-steps: 3}
"""


def recipe(directory: Path, stages: str = STAGES, model: str = "m", **extra: str) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(TRAIN.format(model=model) + stages + "".join(f"{key}: {value}\n" for key, value in extra.items()))
    return path


def test_each_stage_trains_on_all_data_so_far_from_the_adapter_before(tmp_path: Path) -> None:
    steps = read_climb(Climb(recipe(tmp_path, ranks="2"), tmp_path / "out"))
    programs = [next(word for word in step.command if word.startswith("launcher/")) for step in steps]
    short = ["generate_data", "train", "play"]
    assert programs == [f"launcher/{name}.py" for name in [*short, "generate_data", "play", "correct", "train", "play"]]
    first, second = (step.command for step, program in zip(steps, programs, strict=True) if "train" in program)
    assert "--init-adapter" not in first
    assert second[second.index("--init-adapter") + 1] == str(tmp_path / "out/1-short/run/lora_adapters/model_artifacts")
    at = second.index("--data")
    made = ["1-short/data-1", "2-own-games/data-1", "2-own-games/corrections"]
    assert second[at + 1 : at + 4] == [str(tmp_path / "out" / name) for name in made]
    assert (first[first.index("--max-steps") + 1], second[second.index("--max-steps") + 1]) == ("2", "3")
    assert "--nproc-per-node" in first
    written = [step.command for step in steps if "launcher/generate_data.py" in step.command]
    assert [command[command.index("--games") + 1] for command in written] == ["6", "3"]
    assert all(command[command.index("--policy") + 1] == "bfs-safe" for command in written)


def test_a_stage_may_leave_earlier_data_out(tmp_path: Path) -> None:
    stages = STAGES.replace("- name: own-games", "- name: own-games\n  earlier-data: false")
    steps = read_climb(Climb(recipe(tmp_path, stages), tmp_path / "out"))
    last = [step.command for step in steps if "launcher/train.py" in step.command][-1]
    at = last.index("--data")
    assert last[at + 1 : at + 4] == [
        *(str(tmp_path / "out/2-own-games" / name) for name in ("data-1", "corrections")),
        "--init-adapter",
    ]


def test_stages_from_the_base_model_compare_data_of_several_styles(tmp_path: Path) -> None:
    stages = "stages: [{name: a, generate: {games: 2}}, {name: b, from-base: true, generate: {games: 2, style: move}}]"
    steps = read_climb(Climb(recipe(tmp_path, stages), tmp_path / "out"))
    trainings = [step.command for step in steps if "launcher/train.py" in step.command]
    assert len(trainings) == 2
    assert not any("--init-adapter" in command for command in trainings)


@pytest.mark.parametrize("ready", sorted((ROOT / "launcher/recipes/climb").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_with_the_repository_are_valid(tmp_path: Path, ready: Path) -> None:
    steps = read_climb(Climb(ready, tmp_path / "out"))
    assert [step.result.name for step in steps if "launcher/play.py" in step.command][-1] == "report.json"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("stages: []", "recipe.yaml: stages: must be a list of stages"),
        ("stages: [{name: A b}]", "stage 1: name 'A b': must be small letters"),
        ("stages: [{name: a}]", "stage 1: no data to train on"),
        (
            "generate: {policy: x}\nstages: [{name: a, generate: {}}]",
            "stage 1: generate: invalid choice 'x' for argument '--policy'",
        ),
        (
            "stages: [{name: a, generate: {policy: perfect}}]",
            "stage 1: generate: invalid choice 'perfect' for argument '--policy'",
        ),
        ("stages: [{name: a, correct: {games: 3}}]", "stage 1: correct: no earlier stage"),
        ("stages: [{name: a, generate: {games: 2, output: x}}]", "stage 1: generate: output is set by the climb"),
        ("stages: [{name: a, generate: {games: 2}, train: {rank: 0}}]", "stage 1: train: --rank 0: at least 1"),
        ("stages: [{name: a, generate: {games: 2}, play: {games: many}}]", "stage 1: play: .*many"),
        ("stages: [{name: a, generate: {games: 2}, tune: {}}]", "stage 1: unknown key 'tune'"),
        (STAGES.replace("- name: own", "- from-base: true\n  name: own"), "stage 2: correct: no earlier stage"),
        (STAGES.replace("own-games", "short"), "stage 2: name 'short'"),
        (STAGES.replace("agreement-rate: 1", "agreement-rate: 7"), "stage 2: correct: --agreement-rate 7"),
        (
            "stages: [{name: a, generate: {games: 2}, earlier-data: maybe}]",
            "stage 1: earlier-data is 'maybe': true or false",
        ),
        (STAGES + "rank: 2", "unknown key 'rank'"),
        (STAGES + "ranks: two", "ranks is 'two'"),
    ],
)
def test_a_bad_recipe_is_refused_in_one_line_before_anything_runs(tmp_path: Path, stages: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_climb(Climb(recipe(tmp_path, stages), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_one_climb_at_a_time_writes_a_directory(tmp_path: Path) -> None:
    held = lock_directory(tmp_path / "out", "test")
    with pytest.raises(InputError, match="--output .*/out: another run is using it: process "):
        climb(["--recipe", str(recipe(tmp_path)), "--output", str(tmp_path / "out")])
    held.release()


def test_a_climb_whose_command_fails_says_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Step(tmp_path / "1-short", tmp_path / "report.json", ["sh", "-c", "exit 3"])
    monkeypatch.setattr("snake_dist.verbs.climb.read_climb", lambda _config: [failing])
    with pytest.raises(SystemExit) as ended:
        climb(["--recipe", str(recipe(tmp_path)), "--output", str(tmp_path / "out")])
    assert ended.value.code == 3
    assert capsys.readouterr().err == "1-short: exit code 3; the same command resumes it\n"


@pytest.mark.slow
def test_a_climb_goes_on_where_it_stopped_and_ends_in_a_table(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    command = [*launcher("climb"), "--recipe", recipe(tmp_path, model=str(model)), "--output", tmp_path / "out"]

    def run() -> str:
        ended = run_program(command, ROOT, timeout_s=1800)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return ended.stdout

    printed = run()
    table = (tmp_path / "out/climb.md").read_text()
    assert table.strip() in printed
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["base", "1-short", "2-own-games"]
    written = json.loads((tmp_path / "out/climb.json").read_text())
    assert [stage["stage"] for stage in written["stages"]] == ["1-short", "2-own-games"]
    assert written["stages"][0]["base"]["games"] == 2
    assert written["stages"][0]["board"] == "5x5 classic"
    corrections = json.loads((tmp_path / "out/2-own-games/corrections/summary.json").read_text())
    assert corrections["logs"][0]["games"] == 2
    before = adapter_tensors(tmp_path / "out/2-own-games/run")
    # What is there is not made again; what is missing is, to the same bits.
    status = tmp_path / "out/2-own-games/run/status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "stopped", "step": 0}))
    (tmp_path / "out/2-own-games/report/report.json").unlink()
    again = run()
    assert again.count("launcher/") == 2
    after = adapter_tensors(tmp_path / "out/2-own-games/run")
    assert all(before[name].equal(after[name]) for name in before)
