"""A recipe of stages, each training on from the last adapter: curriculum and on-policy correction.

A stage is a directory below the climb's, and a few commands of `launcher/`, run one after another:

generate  writes games of heuristics (generate_data.py), once or several times
correct   the adapter so far plays training games (play.py), a teacher labels where it came to (correct.py)
train     trains on the data of all stages so far, or of this one alone, from the adapter of the stage before (train.py)
play      judges the new adapter (play.py)

A command whose result is there is not run again, so the same command line goes on with a stopped climb; a training
that was stopped resumes exactly.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.run_dir import read_status
from snake_dist.cli import parse_dataclass
from snake_dist.climb.correction import Correction, check_correction
from snake_dist.cluster.local import start_ranks
from snake_dist.data.generation_config import GenerationConfig, check_generation
from snake_dist.errors import InputError
from snake_dist.evaluation.play import Play
from snake_dist.files import ADAPTER_DIR, GAMES_DIR, REPORT, STATUS, SUMMARY
from snake_dist.recipes import dashed, flags_of, known_keys, read_mapping
from snake_dist.run.config import check_run_flags

FIRST_OWN_GAME = 500_000_000
"""Seeds from here on are those of the adapters' own training games, so many for each stage:"""
OWN_GAMES = 1_000_000
_KEYS = {"ranks", "generate", "train", "play", "stages"}
_STAGE_KEYS = {"name", "generate", "correct", "train", "play", "earlier-data", "from-base"}
_OWNED = ("output", "output-dir", "resume", "data", "init-adapter", "player", "report", "games-log", "config")


@dataclass(frozen=True)
class Climb:
    """Train in stages, each going on from the last adapter, and judge every stage by playing."""

    recipe: Path
    """YAML: what to do; docs/climb.md."""
    output: Path
    """Directory of this climb; the same command goes on with one that was stopped."""
    dry_run: bool = False
    """Print the commands and do nothing."""


@dataclass(frozen=True)
class Step:
    """One command of a stage."""

    stage: Path
    result: Path
    """There, or for a training finished, once the command has succeeded."""
    command: list[str]

    def is_done(self) -> bool:
        if self.result.name != STATUS:
            return self.result.exists()
        status = read_status(self.result.parent)
        return status is not None and status.state == "finished"


@dataclass(frozen=True)
class _Stage:
    """A stage of the recipe, its keys known ones."""

    number: int
    keys: Mapping[str, Any]
    place: str
    """Names it in errors."""
    directory: Path
    start: list[str]
    """Begins a command that runs on the recipe's ranks."""

    def generate(self, common: Any) -> Iterator[Step]:
        """`common`, here and below: the recipe's flags of the program for all stages."""
        wanted, place = self.keys.get("generate", []), f"{self.place}: generate"
        for i, part in enumerate(wanted if isinstance(wanted, list) else [wanted], start=1):
            output = self.directory / f"data-{i}"
            flags = _flags_over(common, part, place)
            with _named(place):
                check_generation(parse_dataclass(GenerationConfig, flags))
            command = [sys.executable, "launcher/generate_data.py", *flags, "--output", str(output)]
            yield Step(self.directory, output / SUMMARY, command)

    def correct(self, adapter: Path) -> list[Step]:
        """The adapter plays, a teacher labels."""
        place = f"{self.place}: correct"
        label = dashed(self.keys["correct"], place)
        play = {key: label.pop(key) for key in ("games", "max-steps") if key in label}
        own, output = self.directory / "own-games", self.directory / "corrections"
        first_game = FIRST_OWN_GAME + self.number * OWN_GAMES
        play_flags = ["--player", "adapter", str(adapter), *_flags(play, place), "--seed-range", "train"]
        play_flags += ["--first-game", str(first_game), "--no-ladder", "--bank-states", "0", "--report", str(own)]
        log = own / GAMES_DIR / "adapter.jsonl"
        label_flags = ["--games", str(log), *_flags(label, place), "--output", str(output)]
        with _named(place):
            parse_dataclass(Play, play_flags)
            check_correction(parse_dataclass(Correction, label_flags))
        return [
            Step(self.directory, own / REPORT, [*self.start, "launcher/play.py", *play_flags]),
            Step(self.directory, output / SUMMARY, [sys.executable, "launcher/correct.py", *label_flags]),
        ]

    def train(self, common: Any, data: Sequence[Path], adapter: Path | None, ranks: int) -> Step:
        place = f"{self.place}: train"
        flags = [*_flags_over(common, self.keys.get("train"), place), "--data", *map(str, data)]
        flags += ["--init-adapter", str(adapter)] if adapter else []
        flags += ["--output-dir", str(self.directory / "run"), "--resume", "auto"]
        with _named(place):
            check_run_flags(flags, ranks)
        return Step(self.directory, self.directory / "run" / STATUS, [*self.start, "launcher/train.py", *flags])

    def judge(self, common: Any, adapter: Path) -> Step:
        place = f"{self.place}: play"
        flags = ["--player", "adapter", str(adapter), *_flags_over(common, self.keys.get("play"), place)]
        flags += ["--report", str(self.directory / "report")]
        with _named(place):
            parse_dataclass(Play, flags)
        return Step(self.directory, self.directory / "report" / REPORT, [*self.start, "launcher/play.py", *flags])

    def is_true(self, key: str, default: str) -> bool:
        value = self.keys.get(key, default)
        if value not in ("true", "false"):
            raise InputError(f"{self.place}: {key} is {value!r}: true or false")
        return bool(value == "true")


def read_climb(config: Climb) -> list[Step]:
    """All commands of a recipe in their order, their flags checked. Raises InputError naming file, stage and key."""
    recipe = known_keys(read_mapping(config.recipe, str(config.recipe)), str(config.recipe), _KEYS)
    ranks = _whole(recipe.get("ranks", "1"), f"{config.recipe}: ranks")
    steps: list[Step] = []
    data: list[Path] = []
    adapter: Path | None = None
    for stage in _stages(recipe, config, start_ranks("torchrun", ranks)):
        if not stage.is_true("earlier-data", default="true"):
            data.clear()
        if stage.is_true("from-base", default="false"):
            adapter = None
        written = list(stage.generate(recipe.get("generate")))
        steps += written
        if "correct" in stage.keys:
            if adapter is None:
                raise InputError(f"{stage.place}: correct: there is no adapter yet whose games could be corrected")
            played, corrected = stage.correct(adapter)
            steps += [played, corrected]
            written.append(corrected)
        data += [step.result.parent for step in written]
        if not data:
            raise InputError(f"{stage.place}: there is nothing to train on: generate is missing")
        steps.append(stage.train(recipe.get("train"), data, adapter, ranks))
        adapter = stage.directory / "run" / ADAPTER_DIR
        steps.append(stage.judge(recipe.get("play"), adapter))
    return steps


def _stages(recipe: Mapping[str, Any], config: Climb, start: list[str]) -> Iterator[_Stage]:
    stages = recipe.get("stages")
    if not isinstance(stages, list) or not stages:
        raise InputError(f"{config.recipe}: stages: a list of stages is expected")
    names: set[str] = set()
    for number, stage in enumerate(stages, start=1):
        place = f"{config.recipe}: stage {number}"
        keys = known_keys(stage, place, _STAGE_KEYS)
        name = str(keys.get("name", ""))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name) or name in names:
            raise InputError(f"{place}: name {name!r}: small letters, digits and -, another for each stage")
        names.add(name)
        yield _Stage(number, keys, place, config.output / f"{number}-{name}", start)


def _flags_over(common: Any, own: Any, place: str) -> list[str]:
    """A stage's own flags of a program over those of all stages."""
    return _flags(dashed(common or {}, place) | dashed(own or {}, place), place)


def _flags(value: Any, place: str) -> list[str]:
    mapping = dashed(value, place)
    owned = sorted(set(mapping) & set(_OWNED))
    if owned:
        raise InputError(f"{place}: {owned[0]} is set by the climb")
    return flags_of(mapping, place)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Puts the place in front of what is wrong with it."""
    try:
        yield
    except InputError as problem:
        raise InputError(f"{place}: {problem}") from None


def _whole(text: Any, place: str) -> int:
    if not str(text).isdigit() or int(text) < 1:
        raise InputError(f"{place} is {text!r}: a whole number from 1 on is expected")
    return int(text)
