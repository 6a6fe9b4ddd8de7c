"""The YAML of an ablation: a grid of settings times training seeds, a run each. docs/ablation.md says what it holds."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from snake_dist.cli import parse_dataclass
from snake_dist.cluster.job import Job, array_tasks, complete_job
from snake_dist.errors import InputError
from snake_dist.recipes import as_mapping, flags_of, known_keys, read_mapping
from snake_dist.run.config import train_flags

KEYS = ("name", "base", "grid", "seeds", "compare", "launch")
OWN_FLAGS = {"seed": "seeds", "output-dir": "--output", "resume": "each run's own directory"}
"""Flags of train.py that an ablation sets itself -> from what."""
OWN_JOB_FLAGS = ("job-name", "variants", "seeds", "directory", "program")
LONGEST_SETTING = 128
"""Letters of a setting's name: it is a directory and a run in W&B."""


@dataclass(frozen=True)
class Launch:
    """How each run is started."""

    job: Job = field(default_factory=Job)
    launcher: Literal["torchrun", "deepspeed"] = "torchrun"


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    setting: str
    """All but the seed, as a name."""
    choice: dict[str, str]
    """Axis -> label of its value."""
    seed: int
    flags: list[str]
    """Of train.py, but for --output-dir and --resume."""
    directory: Path


@dataclass(frozen=True)
class Ablation:
    """A grid that was read."""

    name: str
    source: Path
    output: Path
    axes: dict[str, list[str]]
    """Axis -> labels of its values."""
    compare: list[str]
    """Axes whose values are compared."""
    job: Job
    """All runs, as one array."""
    launcher: str
    flags: list[str]
    """What all runs have in common; --output-dir is the directory of their directories."""
    cells: list[Cell]


def read_ablation(path: Path, output: Path | None, this_python: str) -> Ablation:
    """The ablation of a YAML file; `output` defaults to logs/ablations/NAME.

    Raises InputError naming the file and the key of a fault.
    """
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
        raise InputError(f"{path}: compare: {unknown[0]!r} is no axis of the grid: {', '.join(axes)}")
    launch = _launch(spec.get("launch", {}), f"{path}: launch")
    job = replace(
        launch.job,
        job_name=name,
        directory=f"{output}/slurm",
        variants=tuple(f"{setting}={shlex.join(flags)}" for setting, (_, flags) in settings.items()),
        seeds=_seeds(spec.get("seeds", ["0"]), f"{path}: seeds"),
    )
    job = complete_job(job, datetime.now(), this_python)
    common = [*flags_of(base, f"{path}: base"), *([] if "wandb-group" in base else ["--wandb-group", name])]
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
        raise InputError(f"{path}: grid: a flag with the list of its values is expected, or several")
    return spec


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [value]


def _train_flags(mapping: Any, place: str) -> dict[str, Any]:
    """Flag without its dashes -> value. Raises InputError for what is no flag, or not the user's to set here."""
    flags = train_flags(mapping, place)
    for name in OWN_FLAGS.keys() & flags:
        raise InputError(f"{place}: {name}: is set from {OWN_FLAGS[name]}")
    return flags


def _axis(axis: str, values: Any, place: str) -> dict[str, dict[str, Any]]:
    """Label -> flags, from a flag's list of values or from a mapping of labels to flags that are set together."""
    if not values:
        raise InputError(f"{place}: {values!r}: at least one value is expected")
    if isinstance(values, dict):
        named = {" ".join(label.split()): _train_flags(flags, f"{place}: {label}") for label, flags in values.items()}
    else:
        listed = [(" ".join(map(str, _listed(value))), _train_flags({axis: value}, place)) for value in _listed(values)]
        named = dict(listed)
        if len(named) < len(listed):
            raise InputError(f"{place}: {values!r}: different values are expected")
    if len({_as_name(label) for label in named}) < len(named):
        raise InputError(f"{place}: {', '.join(named)}: different as names of directories are expected")
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
    """Name -> (axis -> label, flags) of every combination of the axes' values."""
    settings = {}
    for labels in itertools.product(*axes.values()):
        choice = dict(zip(axes, labels, strict=True))
        name = "_".join(f"{_as_name(axis)}-{_as_name(label)}" for axis, label in choice.items())
        if len(name) > LONGEST_SETTING:
            raise InputError(
                f"{path}: grid: a run would be called {name}, more than {LONGEST_SETTING} letters: give the values "
                "short names (AXIS: {NAME: {flag: value}})"
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
            raise InputError(f"{place}: {seed!r}: a whole number from 0 on is expected")
    if not seeds or len({int(seed) for seed in seeds}) < len(seeds):
        raise InputError(f"{place}: {values!r}: different numbers are expected, at least one")
    return tuple(int(seed) for seed in seeds)


def _launch(mapping: Any, place: str) -> Launch:
    for key in as_mapping(mapping, place):
        if key.replace("_", "-") in OWN_JOB_FLAGS:
            raise InputError(f"{place}: {key}: is set by the ablation")
    try:
        return parse_dataclass(Launch, flags_of(mapping, place))
    except InputError as problem:
        raise InputError(f"{place}: {problem}") from None
