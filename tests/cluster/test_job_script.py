"""The batch script as text: what may stand in it, and that slurm/ holds just what submit.py writes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from snake_dist.cluster.job import Job, array_tasks, time_limit_s
from snake_dist.cluster.job_script import render
from snake_dist.errors import InputError
from snake_dist.recipes import read_job_recipe
from snake_dist.verbs import submit
from tests.support.processes import BIN, ROOT

SLURM = ROOT / "slurm"
RECIPES = sorted((SLURM / "recipes").glob("*.yaml"))


def dry_run(*arguments: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        submit.main(["--dry-run", *arguments])
    return printed.getvalue()


def ready_files(recipe: Path) -> list[Path]:
    jobs = [flags[flags.index("--job-name") + 1] for flags, _ in read_job_recipe(recipe, [])]
    return [SLURM / f"{name}.sbatch" for name in jobs]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_ready_file_is_what_submit_prints_for_its_recipe(recipe):
    written = "".join(path.read_text() for path in ready_files(recipe))
    assert written == dry_run("--recipe", str(recipe)), f"write again: python -m tests.cluster.test_job_script {recipe}"


def test_a_job_without_a_name_has_its_programs():
    script = dry_run()
    assert "#SBATCH --job-name=train\n" in script
    assert "logs/slurm/train_2" in script


def test_every_ready_file_has_a_recipe():
    assert {path for recipe in RECIPES for path in ready_files(recipe)} == set(SLURM.glob("*.sbatch"))


def test_shellcheck_finds_nothing_in_the_ready_files():
    done = subprocess.run([BIN / "shellcheck", *sorted(SLURM.glob("*.sbatch"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shellcheck_finds_nothing_whatever_the_flags(tmp_path):
    odd = Job(
        "odd", nodes=2, ranks_per_node=2, modules=("cuda/12.4",), venv="my env", container="apptainer exec 'a b.sif'",
        env=("A=it's", "B"), seeds=(0, 1), variants=("x=--adapter dora --output-dir y",), directory="a dir",
        constraint="a100|h100", exclusive=True, memory="8G",
    )  # fmt: skip
    (tmp_path / "odd").write_text(render(odd, ["--data", "*.jsonl", "it's"]))
    done = subprocess.run([BIN / "shellcheck", tmp_path / "odd"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@example("\x85", "directory")
@example("\u2028", "directory")
@given(st.text(), st.sampled_from(["job_name", "partition", "account", "qos", "constraint", "memory", "directory"]))
def test_no_value_adds_a_line_or_an_option(text, name):
    """Whatever is accepted stands inside its one #SBATCH line; the rest of the script does not change."""
    plain = Job("name", directory="logs")
    expected = render(plain, []).replace("logs", "X")
    try:
        script = render(Job(**{"job_name": "name", "directory": "logs", name: text}), [])
    except InputError:
        return
    directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert len(directives) in (len(expected.split("#SBATCH")) - 1, len(expected.split("#SBATCH")))
    for line in directives:
        assert len(shlex.split(line.removeprefix("#SBATCH "))) == 1


@settings(max_examples=40)  # each starts a shell
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_bash_gives_the_program_its_flags_unchanged(flags):
    text = render(Job("name", directory="logs", program="launcher/play.py"), flags)
    array = text[text.index("command=(") : text.index("\nsrun ")]
    done = subprocess.run(["bash", "-c", array + '\nprintf "%s\\0" "${command[@]}"'], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[1:-1] == flags


BAD = {
    "no name": (Job(), "--job-name ''"),
    "slash in a name": (Job("a/b"), "--job-name 'a/b'"),
    "time": (Job("a", time="4 hours"), "--time '4 hours'"),
    "too short for the signal": (Job("a", time="5"), "--signal-before-s 300"),
    "memory": (Job("a", memory="64 GB"), "--memory '64 GB'"),
    "env": (Job("a", env=("A B",)), "--env 'A B'"),
    "no nodes": (Job("a", nodes=0), "--nodes 0: at least 1"),
    "ranks and GPUs": (Job("a", gpus_per_node=4, ranks_per_node=2), "must equal --gpus-per-node 4"),
    "several ranks of a program": (Job("a", nodes=2, program="launcher/generate_data.py"), "2 ranks"),
    "equal names": (Job("a", variants=("x=--rank 4", "x=--rank 8")), "name x"),
    "open quote": (Job("a", variants=("x=--rank '4",)), "No closing quotation"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_value_is_named(name):
    job, message = BAD[name]
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        render(dataclasses.replace(job, directory="logs"), [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("4:00:00", 14400), ("1-2", 93600), ("1-2:30", 95400), ("1-02:30:05", 95405)],
)
def test_time_limits_are_read_as_slurm_reads_them(text, seconds):
    assert time_limit_s(text) == seconds


def test_an_array_is_the_product_of_variants_and_seeds():
    tasks = array_tasks(Job("a", seeds=(0, 7), variants=("dora=--adapter dora --rank 8", "lora=")))
    assert tasks[1] == ("dora-seed-7", ["--adapter", "dora", "--rank", "8", "--seed", "7"])
    assert [name for name, _ in tasks] == ["dora-seed-0", "dora-seed-7", "lora-seed-0", "lora-seed-7"]


def test_a_variant_that_train_py_would_refuse_is_refused_before_it_is_queued():
    with pytest.raises(InputError, match="lroa"):
        dry_run("--job-name", "a", "--variants", "x=--adapter lora", "y=--adapter lroa")
    with pytest.raises(InputError, match="--global-batch-size 8: at least the number of ranks, 9"):
        dry_run("--job-name", "a", "--nodes", "9")


@pytest.mark.parametrize(
    "name", ["nothing", "nothing.py", "a.b.py", "__init__", "launcher/nothing.py", "launcher", "-"]
)
def test_a_program_is_a_file_or_a_verb(name):
    with pytest.raises(InputError, match="no such file, and no verb"):
        dry_run("--job-name", "a", f"--program={name}")
    assert "\n    launcher/generate_data.py\n" in dry_run("--program", "generate-data")


def test_the_output_directory_is_the_users_if_given():
    script = render(Job("a", directory="logs"), ["--output-dir=here", "--resume=never"])
    assert "run=here" in script
    assert "--resume never" in script
    assert "--resume auto" not in script
    assert script.count("--output-dir") == 1


RECIPE_FAULTS = {
    "- job-name: a\n": "a mapping of flags to values is expected",
    "job-name: a\nnodes: {a: 1}\n": "nodes is {'a': '1'}",
    "job-name: a\nrun: 5\n": "run is '5'",
    "job-name: [\n": "recipe.yaml",
    "job-name: a\nnoodles: 2\n": "noodles",
    "": "a mapping of flags to values is expected",
}


@pytest.mark.parametrize("text", RECIPE_FAULTS)
def test_a_fault_in_a_recipe_is_named(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=RECIPE_FAULTS[text]):
        dry_run("--recipe", str(tmp_path / "recipe.yaml"))


def test_a_recipes_time_is_read_as_it_is_written(tmp_path):
    (tmp_path / "recipe.yaml").write_text("job-name: a\ntime: 4:00:00\nexclusive: true\n")
    script = dry_run("--recipe", str(tmp_path / "recipe.yaml"))
    assert "#SBATCH --time=4:00:00" in script
    assert "#SBATCH --exclusive\n" in script


def test_the_command_line_wins_over_a_recipe():
    script = dry_run("--recipe", str(SLURM / "recipes/single_node.yaml"), "--partition", "gpu", "--time", "1:00:00")
    assert "#SBATCH --partition=gpu" in script
    assert "#SBATCH --time=1:00:00" in script


if __name__ == "__main__":
    for name in sys.argv[1:]:
        scripts = dry_run("--recipe", name).split("#!/bin/bash\n")[1:]
        for path, script in zip(ready_files(Path(name)), scripts, strict=True):
            path.write_text(f"#!/bin/bash\n{script}")
