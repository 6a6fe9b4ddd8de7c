"""Recipes of jobs: YAML files with one document a job, its keys submit.py's flags and `run`: the program's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError


def read_recipe(path: Path, given: list[str]) -> list[tuple[list[str], list[str]]]:
    """(submit.py's flags, the program's flags) of each job; `given` ones are added to those of a single job.

    Raises InputError naming the file and what is wrong.
    """
    import yaml

    try:
        # Values stay as they are written: as numbers, 4:00:00 would be 14400.
        documents = yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # strings, lists, mappings
        jobs = [job for job in documents if job]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise InputError(f"--recipe {path}: {' '.join(str(problem).split())}") from None
    if not jobs or not all(isinstance(job, dict) for job in jobs):
        raise InputError(f"--recipe {path}: a mapping of flags to values is expected for each job")
    if given and len(jobs) > 1:
        raise InputError(f"-- {' '.join(given)}: {path} holds {len(jobs)} jobs: put the flags into it, under `run`")
    return [
        (
            flags_of({key: value for key, value in job.items() if key != "run"}, f"--recipe {path}"),
            [*_run(job.get("run"), f"--recipe {path}"), *given],
        )
        for job in jobs
    ]


def _run(value: Any, place: str) -> list[str]:
    if isinstance(value, list):
        return [str(word) for word in value]
    if value is None or isinstance(value, dict):
        return flags_of(value or {}, place)
    raise InputError(f"{place}: run is {value!r}: a mapping of flags to values, or a list of words, is expected")


def read_recipe_mapping(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """A YAML file with a mapping of these keys; its values stay as they are written: strings, lists, mappings.

    As numbers, 1e-3 would be 0.001 in the names of runs, and 4:00:00 would be 14400. Raises InputError.
    """
    import yaml

    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise InputError(f"{path}: {' '.join(str(problem).split())}") from None
    return known_keys(recipe, str(path), keys)


def known_keys(value: Any, place: str, keys: Collection[str]) -> dict[str, Any]:
    """`value` as a mapping that has none but these keys. Raises InputError naming `place`."""
    value = as_mapping(value, place)
    unknown = next((key for key in value if key not in keys), None)
    if unknown is not None:
        raise InputError(f"{place}: unknown key {unknown!r}: one of {', '.join(sorted(keys))}")
    return value


def as_mapping(value: Any, place: str) -> dict[str, Any]:
    """Raises InputError naming `place` unless `value` is a mapping."""
    if not isinstance(value, dict):
        raise InputError(f"{place}: {value!r}: a mapping is expected")
    return value


def dashed(value: Any, place: str) -> dict[str, Any]:
    """A new mapping, its keys written as flags are. Raises InputError naming `place` if `value` is none."""
    return {key.replace("_", "-"): item for key, item in as_mapping(value, place).items()}


def flags_of(mapping: Mapping[str, Any], place: str) -> list[str]:
    """The flags that a mapping of strings stands for. Raises InputError naming `place` and the key."""
    flags = []
    for key, value in mapping.items():
        name = str(key).replace("_", "-")
        if value in ("true", "false"):
            flags.append(f"--{name}" if value == "true" else f"--no-{name}")
        elif not value or isinstance(value, dict):
            raise InputError(f"{place}: {key} is {value!r}: a value or a list of values is expected")
        else:
            flags += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return flags
