"""The YAML of an ablation: a grid of settings times training seeds, one run each (docs/ablation.md)."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from snake_dist.cli import parse_dataclass
from snake_dist.cluster.job import Job, array_tasks, complete_job
from snake_dist.errors import InputError, named
from snake_dist.recipes import as_mapping, flags_of, known_keys, read_mapping, recipe_path
from snake_dist.run.config import train_flags

KEYS = ("name", "base", "grid", "seeds", "compare", "launch")
OWN_FLAGS = {"seed": "seeds", "output-dir": "--output", "resume": "each run's own directory"}
"""Flags of train.py that an ablation sets itself -> the key or flag that it sets them from."""
OWN_JOB_FLAGS = ("job-name", "variants", "seeds", "directory", "program")
LONGEST_SETTING = 128
"""Letters of a setting's name, which names a directory and a W&B run."""


@dataclass(frozen=True)
class Launch:
    """How to start each run."""

    job: Job = field(default_factory=Job)
    launcher: Literal["torchrun", "deepspeed"] = "torchrun"


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    setting: str
    """Name of all but the seed."""
    choice: dict[str, str]
    """Axis -> label of its value."""
    seed: int
    flags: list[str]
    """Flags of train.py, without --output-dir and --resume."""
    directory: Path


@dataclass(frozen=True)
class Ablation:
    """A grid and its runs."""

    name: str
    source: Path
    output: Path
    axes: dict[str, list[str]]
    """Axis -> labels of its values."""
    compare: list[str]
    """Axes whose values are compared."""
    job: Job
    """The array of all runs."""
    launcher: str
    flags: list[str]
    """Flags that all runs share; --output-dir is the parent of their directories."""
    cells: list[Cell]


def read_ablation(path: Path, output: Path | None, this_python: str) -> Ablation:
    """Read the ablation of a YAML file; `output` defaults to logs/ablations/NAME.

    Raises InputError naming the file and the faulty key.
    """
    path = recipe_path(path, "ablate")
    spec = _read(path)
    name = str(spec.get("name", path.stem))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,50}", name):
        raise InputError(f"{path}: name {name!r}: up to 51 letters, digits, . _ -")
    output = output or Path("logs/ablations") / name
    base = _train_flags(spec.get("base", {}), f"{path}: base")
    axes = {axis: _axis(axis, values, f"{path}: grid: {axis}") for axis, values in spec["grid"].items()}
    _check_each_flag_has_one_place(base, axes, path)
    settings = _settings(axes, path)
    compare = _listed(spec.get("compare", list(axes)))
    if unknown := [axis for axis in compare if axis not in axes]:
        raise InputError(f"{path}: compare: {unknown[0]!r} is not an axis of the grid: {', '.join(axes)}")
    launch = _launch(spec.get("launch", {}), f"{path}: launch")
    job = replace(
        launch.job,
        job_name=name,
        directory=f"{output}/slurm",
        variants=tuple(f"{setting}={shlex.join(flags)}" for setting, (_, flags) in settings.items()),
        seeds=_seeds(spec.get("seeds", ["0"]), f"{path}: seeds"),
    )
    job = complete_job(job, datetime.now(), this_python)
    group = [] if "wandb-group" in base else ["--wandb-group", os.environ.get("WANDB_RUN_GROUP") or name]
    common = [*flags_of(base, f"{path}: base"), *group]
    names = zip(itertools.product(settings, job.seeds), array_tasks(job), strict=True)
    return Ablation(
        name=name,
        source=path,
        output=output,
        axes={axis: list(values) for axis, values in axes.items()},
        compare=compare,
        job=job,
        launcher=launch.launcher,
        flags=[*common, "--output-dir", str(output)],
        cells=[
            Cell(run, setting, settings[setting][0], seed, [*common, *flags], output / run)
            for (setting, seed), (run, flags) in names
        ],
    )


def _read(path: Path) -> dict[str, Any]:
    spec = known_keys(read_mapping(path, str(path)), str(path), KEYS)
    if not as_mapping(spec.get("grid", {}), f"{path}: grid"):
        raise InputError(f"{path}: grid: must map each flag to a list of values")
    return spec


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [value]


def _train_flags(mapping: Any, place: str) -> dict[str, Any]:
    """Map flags without dashes to values. Raises InputError for an unknown flag, or one that the ablation sets."""
    flags = train_flags(mapping, place)
    for name in OWN_FLAGS.keys() & flags:
        raise InputError(f"{place}: {name} is set from {OWN_FLAGS[name]}")
    return flags


def _axis(axis: str, values: Any, place: str) -> dict[str, dict[str, Any]]:
    """Map labels to flags, from a flag's list of values or from a mapping of labels to flags that are set together."""
    if not values:
        raise InputError(f"{place}: {values!r}: must have at least one value")
    if isinstance(values, dict):
        named = {" ".join(label.split()): _train_flags(flags, f"{place}: {label}") for label, flags in values.items()}
    else:
        listed = [(" ".join(map(str, _listed(value))), _train_flags({axis: value}, place)) for value in _listed(values)]
        named = dict(listed)
        if len(named) < len(listed):
            raise InputError(f"{place}: {values!r}: must be different values")
    if len({_as_name(label) for label in named}) < len(named):
        raise InputError(f"{place}: {', '.join(named)}: must differ as names of directories")
    return named


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "none"


def _check_each_flag_has_one_place(base: Mapping[str, Any], axes: Mapping[str, Any], path: Path) -> None:
    places = dict.fromkeys(base, "base")
    for axis, values in axes.items():
        for name in {flag: None for flags in values.values() for flag in flags}:
            if name in places:
                raise InputError(f"{path}: {name} is in {places[name]} and in grid: {axis}")
            places[name] = f"grid: {axis}"


def _settings(axes: Mapping[str, dict[str, dict[str, Any]]], path: Path) -> dict[str, tuple[dict[str, str], list[str]]]:
    """Map the name of every combination of the axes' values to (axis -> label, flags)."""
    settings = {}
    for labels in itertools.product(*axes.values()):
        choice = dict(zip(axes, labels, strict=True))
        name = "_".join(f"{_as_name(axis)}-{_as_name(label)}" for axis, label in choice.items())
        if len(name) > LONGEST_SETTING:
            raise InputError(
                f"{path}: grid: the name {name} has more than {LONGEST_SETTING} letters: give the values short names "
                "(AXIS: {NAME: {flag: value}})"
            )
        flags = [
            part for axis, label in choice.items() for part in flags_of(axes[axis][label], f"{path}: grid: {axis}")
        ]
        settings[name] = choice, flags
    return settings


def _seeds(values: Any, place: str) -> tuple[int, ...]:
    seeds = _listed(values)
    for seed in seeds:
        if not (isinstance(seed, str) and seed.isdigit()):
            raise InputError(f"{place}: {seed!r}: must be a whole number, at least 0")
    if not seeds or len({int(seed) for seed in seeds}) < len(seeds):
        raise InputError(f"{place}: {values!r}: must be one or several different numbers")
    return tuple(int(seed) for seed in seeds)


def _launch(mapping: Any, place: str) -> Launch:
    for key in as_mapping(mapping, place):
        if key.replace("_", "-") in OWN_JOB_FLAGS:
            raise InputError(f"{place}: {key} is set by the ablation")
    with named(place):
        return parse_dataclass(Launch, flags_of(mapping, place))
