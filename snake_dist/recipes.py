"""Recipes: YAML files whose keys are flags without their dashes.

Values stay as they are written, since as numbers 1e-3 would be 0.001 in the names of runs, and 4:00:00 would be 14400.
Only null (or nothing) has a meaning of its own: the recipe leaves that flag at its default. `true` is the flag alone,
`false` the flag with `--no-`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError

READY = Path(__file__).with_name("ready_recipes")
"""One folder for each verb that reads recipes: climb, ablate, slurm (for submit)."""


def recipe_path(given: Path, kind: str) -> Path:
    """Return the file, or the ready recipe of this kind that has the name.

    Raises InputError with the names of the ready ones.
    """
    ready = READY / kind / f"{given}.yaml"
    if given.exists() or not (ready.exists() or given.name == str(given)):
        return given
    if not ready.exists():
        names = ", ".join(sorted(path.stem for path in ready.parent.glob("*.yaml")))
        raise InputError(f"{given}: no such file, and no ready recipe: {names}")
    return ready


def read_job_recipe(path: Path, given: list[str]) -> list[tuple[list[str], list[str]]]:
    """Return (submit.py's flags, the program's flags) of each job: a document of the file, with the program's flags
    under `run`. The `given` ones are added to those of a single job.

    Raises InputError naming the file and what is wrong.
    """
    place = f"--recipe {path}"
    jobs = [job for job in read_documents(path, place) if job]
    if not jobs or not all(isinstance(job, dict) for job in jobs):
        raise InputError(f"{place}: a mapping of flags to values is expected for each job")
    if given and len(jobs) > 1:
        raise InputError(f"-- {' '.join(given)}: {path} holds {len(jobs)} jobs: put the flags into it, under `run`")
    return [
        (
            flags_of({key: value for key, value in job.items() if key != "run"}, place),
            [*_program_flags(job.get("run"), place), *given],
        )
        for job in jobs
    ]


def _program_flags(value: Any, place: str) -> list[str]:
    if isinstance(value, list):
        return [str(word) for word in value]
    if value is None or isinstance(value, dict):
        return flags_of(value or {}, place)
    raise InputError(f"{place}: run is {value!r}: a mapping of flags to values, or a list of words, is expected")


def read_mapping(path: Path, place: str) -> dict[str, Any]:
    """Return the mapping in a YAML file of one document. Raises InputError naming `place`."""
    documents = read_documents(path, place)
    if len(documents) > 1:
        raise InputError(f"{place}: {len(documents)} YAML documents: one is expected")
    return as_mapping(documents[0] if documents else None, place)


def read_documents(path: Path, place: str) -> list[Any]:
    """Return the documents of a YAML file: strings, None, lists and mappings. Raises InputError naming `place`."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            return {str(key): value for key, value in super().construct_mapping(node, deep).items()}

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=Loader))
    except OSError as problem:
        raise InputError(f"{place}: {problem.strerror}") from None
    except (UnicodeDecodeError, ValueError, yaml.YAMLError) as problem:
        raise InputError(f"{place}: not YAML ({' '.join(str(problem).split())})") from None


def known_keys(value: Any, place: str, keys: Collection[str]) -> dict[str, Any]:
    """Return `value`, a mapping that has none but these keys. Raises InputError naming `place`."""
    value = as_mapping(value, place)
    unknown = next((key for key in value if key not in keys), None)
    if unknown is not None:
        raise InputError(f"{place}: unknown key {unknown!r}: one of {', '.join(sorted(keys))}")
    return value


def as_mapping(value: Any, place: str) -> dict[str, Any]:
    """Return `value`. Raises InputError naming `place` unless it is a mapping."""
    if not isinstance(value, dict):
        raise InputError(f"{place}: {value!r}: a mapping is expected")
    return value


def dashed(value: Any, place: str) -> dict[str, Any]:
    """Return a new mapping, its keys written as flags are. Raises InputError naming `place` unless `value` is one."""
    return {key.replace("_", "-"): item for key, item in as_mapping(value, place).items()}


def as_bool(value: Any, place: str, key: str) -> bool:
    """Return whether `value` is one of YAML's words for true. Raises InputError naming `place` and `key` unless it is
    one for true or false."""
    word = str(value).lower()
    if word not in ("true", "yes", "on", "false", "no", "off"):
        raise InputError(f"{place}: {key} is {value!r}: true or false is expected")
    return word in ("true", "yes", "on")


def flags_of(mapping: Mapping[str, Any], place: str) -> list[str]:
    """Return the flags that a mapping stands for. Raises InputError naming `place` and the key."""
    flags = []
    for key, value in dashed(mapping, place).items():
        values = value if isinstance(value, list) else [value]
        if str(value).lower() in ("true", "false"):
            flags.append(f"--{key}" if str(value).lower() == "true" else f"--no-{key}")
        elif any(item is None or isinstance(item, (dict, list)) for item in values) and value is not None:
            raise InputError(f"{place}: {key} is {value!r}: a value or a list of values is expected")
        elif value is not None:
            flags += [f"--{key}", *map(str, values)]
    return flags
