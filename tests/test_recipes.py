from __future__ import annotations

import pytest

from snake_dist.errors import InputError
from snake_dist.recipes import flags_of, read_job_recipe, read_mapping
from snake_dist.run.config import RunConfig, parse_run_config

NULLS = "rank: null\nepochs: ~\nlog_every:\nladder: null\nseed: 7\n"


def test_values_stay_as_they_are_written(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("time: 4:00:00\nrate: 1e-3\nname: on\nempty: ''\nnull: 3\nlist: [01, 2]\n")
    recipe = read_mapping(path, "here")
    assert recipe == {"time": "4:00:00", "rate": "1e-3", "name": "on", "empty": "", "None": "3", "list": ["01", "2"]}
    assert flags_of(recipe, "here")[-5:] == ["--None", "3", "--list", "01", "2"]


def test_true_and_false_are_the_flag_and_its_opposite():
    assert flags_of({"dry_run": "true", "ladder": "false"}, "here") == ["--dry-run", "--no-ladder"]


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "false", "False", "no", "Off"])
def test_a_flag_that_is_true_or_false_takes_all_of_yamls_words(tmp_path, word):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"gradient-checkpointing: {word}\n")
    is_true = word in ("true", "True", "yes", "on")
    assert parse_run_config(["--config", str(path)]).model.gradient_checkpointing == is_true


def test_null_leaves_a_flag_of_a_mapping_and_of_a_job_at_its_default(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(NULLS)
    assert flags_of(read_mapping(path, "here"), "here") == ["--seed", "7"]
    path.write_text("job-name: a\nnodes: null\nrun: {rank: null, seed: 7}\n---\njob-name: b\nrun:\n")
    assert read_job_recipe(path, []) == [(["--job-name", "a"], ["--seed", "7"]), (["--job-name", "b"], [])]


def test_null_leaves_a_flag_of_a_config_at_its_default(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(NULLS.replace("ladder: null\n", "gradient-checkpointing: null\n"))
    assert parse_run_config(["--config", str(path)]) == parse_run_config(["--seed", "7"]) != RunConfig()


@pytest.mark.parametrize("value", [{"a": "b"}, ["a", None], [["a"]]])
def test_a_value_that_no_flag_can_have_is_named(value):
    with pytest.raises(InputError, match="here: rank is .*: a value or a list of values is expected"):
        flags_of({"rank": value}, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1", "not YAML"), ("- a", "a mapping is expected"), ("", "a mapping"), ("a: 1\n---\nb: 2", "2 YAML documents")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"here: .*{message}"):
        read_mapping(path, "here")
