from __future__ import annotations

import pytest

from snake_dist.ablation.grid import read_ablation
from snake_dist.errors import InputError
from snake_dist.run.config import parse_run_config
from tests.support.ablations import PRESETS, write_grid
from tests.support.processes import ROOT

GRIDS = sorted((ROOT / "launcher/recipes/ablate").glob("*.yaml"))


def read(directory, spec):
    return read_ablation(write_grid(directory, spec), directory / "out", "python")


def test_a_grid_is_every_combination_times_every_seed(tmp_path):
    found = read(
        tmp_path,
        {
            "base": {"max_steps": 3, "data": ["a", "b c"]},
            "grid": {
                "learning-rate": ["1e-3", 0.0005],
                "size": {"small": {"rank": 4, "alpha": 8}, "all layers": {"rank": 8, "target-modules": ["q", "k"]}},
                "gradient-checkpointing": [True, False],
            },
            "seeds": [0, 7],
        },
    )
    assert len(found.cells) == len({cell.name for cell in found.cells}) == 2 * 2 * 2 * 2
    cell = found.cells[-3]
    assert cell.name == "learning-rate-0.0005_size-all-layers_gradient-checkpointing-true-seed-7"
    assert cell.choice == {"learning-rate": "0.0005", "size": "all layers", "gradient-checkpointing": "true"}
    config = parse_run_config(cell.flags)
    assert (config.training.learning_rate, config.training.seed, config.training.max_steps) == (5e-4, 7, 3)
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.target_modules) == (8, None, ("q", "k"))
    assert config.data.data == ("a", "b c")
    assert config.model.gradient_checkpointing
    assert config.wandb.wandb_group == "grid"
    assert cell.directory == tmp_path / "out" / cell.name
    assert found.compare == list(found.axes) == ["learning-rate", "size", "gradient-checkpointing"]


def test_values_are_called_as_they_are_written(tmp_path):
    found = read(tmp_path, "grid:\n  learning-rate: [1e-3, 1.0e-3]\nlaunch:\n  time: 4:00:00\n")
    assert found.axes == {"learning-rate": ["1e-3", "1.0e-3"]}
    assert found.job.time == "4:00:00"


def test_a_group_of_the_users_own_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    assert parse_run_config(read(tmp_path, PRESETS).cells[0].flags).wandb.wandb_group == "theirs"
    found = read(tmp_path, PRESETS | {"base": {"wandb-group": "mine"}, "name": "other"})
    assert parse_run_config(found.cells[0].flags).wandb.wandb_group == "mine"
    assert found.job.job_name == "other"


FAULTS = {
    "no grid": ({"base": {}}, "grid: must map each flag to a list of values"),
    "unknown part": (PRESETS | {"sedes": [1]}, "unknown key 'sedes': one of base, compare"),
    "unknown flag": (PRESETS | {"base": {"rnak": 4}}, "base: unknown key 'rnak'"),
    "unknown flag of the grid": ({"grid": {"rnak": [4]}}, "grid: rnak: unknown key 'rnak'"),
    "unknown coupled flag": ({"grid": {"size": {"big": {"rnak": 4}}}}, "grid: size: big: unknown key 'rnak'"),
    "empty list": ({"grid": {"rank": []}}, r"grid: rank: \[\]: must have at least one value"),
    "no list": ({"grid": [1]}, "grid: .*a mapping is expected"),
    "both in base and grid": ({"base": {"rank": 4}, "grid": {"rank": [4, 8]}}, "rank is in base and in grid: rank"),
    "in two axes": (
        {"grid": {"rank": [4, 8], "size": {"a": {"rank": 4}}}},
        "rank is in grid: rank and in grid: size",
    ),
    "the same value twice": ({"grid": {"rank": [4, 4]}}, "grid: rank: .*must be different values"),
    "one directory for two": ({"grid": {"data": ["a/b", "a-b"]}}, "grid: data: a/b, a-b: must differ as names"),
    "the seed as a flag": ({"grid": {"seed": [1, 2]}}, "grid: seed: seed is set from seeds"),
    "an output directory": (PRESETS | {"base": {"output-dir": "x"}}, "base: output-dir is set from --output"),
    "bad seeds": (PRESETS | {"seeds": [0, "x"]}, "seeds: 'x': must be a whole number"),
    "equal seeds": (PRESETS | {"seeds": [1, 1]}, "seeds: .*different numbers"),
    "no seeds": (PRESETS | {"seeds": []}, "seeds: .*one or several"),
    "compare": (PRESETS | {"compare": "rank"}, "compare: 'rank' is not an axis of the grid: preset"),
    "launch": (PRESETS | {"launch": {"noodles": 2}}, "launch: .*noodles"),
    "launch's own": (PRESETS | {"launch": {"variants": ["a="]}}, "launch: variants is set by the ablation"),
    "name": (PRESETS | {"name": "a/b"}, "name 'a/b'"),
    "long": ({"grid": {"base-model": ["m" * 130]}}, "more than 128 letters: give the values short names"),
    "not YAML": ("grid: [", "grid.yaml: "),
    "a value that is a mapping": ({"grid": {"rank": [{"a": 1}]}}, "grid: rank: rank is .*: a value or a list"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_that_names_the_key(tmp_path, name):
    spec, message = FAULTS[name]
    with pytest.raises(InputError, match=message) as problem:
        read(tmp_path, spec)
    assert "\n" not in str(problem.value)
    assert str(tmp_path / "grid.yaml") in str(problem.value)


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_ready_grid_is_one_that_can_run(path):
    from snake_dist.ablation.runs import check_cells

    found = read_ablation(path, None, "python")
    check_cells(found, is_here=False)
    assert len(found.cells) >= 4


def test_there_are_ready_grids():
    assert GRIDS
