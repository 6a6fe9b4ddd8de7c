from __future__ import annotations

import pytest

from snake_dist.errors import InputError
from snake_dist.run.config import RunConfig, check_run_flags, parse_run_config


def test_flags_reach_their_rooms():
    config = parse_run_config(
        ["--rank", "3", "--data", "a", "b", "--trust-remote-code", "--max-steps", "7", "--wandb-group", "g"]
    )
    assert config.adapter.rank == 3
    assert config.data.data == ("a", "b")
    assert config.model.trust_remote_code
    assert config.training.max_steps == 7
    assert config.wandb.wandb_group == "g"
    assert parse_run_config([]) == RunConfig()


def test_recipe_comes_first_and_flags_win(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("rank: 3\nlearning_rate: 1e-4\ndata: [a, b]\ntrust-remote-code: true\nmax-steps: null\n")
    config = parse_run_config(["--rank", "5", "--config", str(recipe)])
    assert (config.adapter.rank, config.training.learning_rate) == (5, 1e-4)
    assert config.data.data == ("a", "b")
    assert config.model.trust_remote_code
    assert config.training.max_steps is None


def test_saved_config_reads_back_equal(tmp_path):
    config = parse_run_config(
        ["--rank", "3", "--data", "a", "b", "--dropout", "0.3", "--gradient-checkpointing", "--eval-data", "c"]
    )
    recipe = tmp_path / "config.yaml"
    recipe.write_text(config.to_yaml())
    assert parse_run_config(["--config", str(recipe)]) == config


def test_local_rank_of_the_deepspeed_launcher_is_taken():
    assert parse_run_config(["--local_rank=1", "--rank", "3"]).adapter.rank == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--adapter", "lroa"], "lroa.*lora.*qlora.*adalora.*dora.*rslora.*pissa"),
        (["--preset", "big"], "big.*lightweight.*balanced"),
        (["--mode", "torus"], "torus.*auto.*classic.*wrap.*obstacles"),
        (["--style", "haiku"], "haiku.*sentence.*compact"),
        (["--rank", "x"], "--rank"),
        (["--rnak", "3"], "--rnak"),
        (["--ran", "3"], "--ran"),
        (["--config"], "--config"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_flags_are_named_in_one_line(argv, message):
    with pytest.raises(InputError, match=message) as problem:
        parse_run_config(argv)
    assert "\n" not in str(problem.value)


def test_what_no_run_can_have_is_refused_before_anything_is_prepared():
    for flags, message in (
        ("--max-steps 3 --max-tokens 500", "--max-steps 3, --max-tokens 500: only one of them"),
        ("--max-tokens 0", "--max-tokens 0: at least 1"),
        ("--rank 0", "--rank 0"),
        ("--play-games -1", "--play-games -1: at least 0"),
        ("--eval-games -1", "--eval-games -1: at least 0"),
        ("--best-by play --eval-games 0", "--best-by play contradicts --eval-games 0"),
        ("--eval-examples 0", "--eval-examples 0: at least 1"),
        ("--sequence-length 1", "--sequence-length 1: at least 2"),
        ("--global-batch-size 1", "--global-batch-size 1: at least the number of ranks, 2"),
    ):
        with pytest.raises(InputError, match=message):
            check_run_flags(flags.split(), world_size=2)
    check_run_flags(["--max-tokens", "500"], world_size=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rnak: 3", "unknown key 'rnak'"),
        ("[1, 2]", "mapping"),
        ("a: b: c", "not YAML"),
        ("rank: [1", "not YAML"),
        ("trust-remote-code: 3", "true or false"),
        ("rank: many", "--rank"),
    ],
)
def test_bad_recipes_are_named_in_one_line(tmp_path, text, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=message) as problem:
        parse_run_config(["--config", str(recipe)])
    assert "\n" not in str(problem.value)
