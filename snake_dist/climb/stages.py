"""A recipe of stages, each of which trains the adapter of the stage before: curriculum and on-policy correction.

A stage is a directory below the climb's, and a few commands of `launcher/`, run one after another:

generate  writes games of heuristics (generate_data.py), once or several times
correct   lets the adapter play training games (play.py), and a teacher label its positions (correct.py)
train     trains on the data of all stages so far, or of this one alone, from the adapter of the stage before (train.py)
play      judges the new adapter (play.py)

A command whose result exists is not run again, so the same command line resumes a climb that was stopped; a training
that was stopped resumes exactly.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.run_dir import read_status
from snake_dist.cli import parse_dataclass
from snake_dist.climb.correction import Correction, check_correction
from snake_dist.cluster.job import PLAY, TRAIN, program_words
from snake_dist.cluster.local import start_ranks
from snake_dist.data.generation_config import GenerationConfig, check_generation
from snake_dist.errors import InputError, named
from snake_dist.evaluation.play import Play
from snake_dist.files import ADAPTER_DIR, GAMES_DIR, REPORT, STATUS, SUMMARY
from snake_dist.recipes import as_bool, dashed, flags_of, known_keys, read_mapping, recipe_path
from snake_dist.run.config import check_run_flags

FIRST_OWN_GAME = 500_000_000
"""The first seed of the adapters' own training games."""
OWN_GAMES = 1_000_000
"""Seeds of own training games per stage."""
_KEYS = {"ranks", "generate", "train", "play", "stages"}
_STAGE_KEYS = {"name", "generate", "correct", "train", "play", "earlier-data", "from-base"}
_OWNED = ("output", "output-dir", "resume", "data", "init-adapter", "player", "report", "games-log", "config")


@dataclass(frozen=True)
class Climb:
    """Train in stages, each from the adapter of the stage before, and judge every stage by playing."""

    recipe: Path
    """YAML file of the stages (docs/climb.md), or a ready one: exact-4x4, exact-5x5, fill-10x10,
    look-10x10, small-boards, styles-10x10, ways."""
    output: Path
    """Directory of this climb; the same command resumes a climb that was stopped."""
    dry_run: bool = False
    """Print the commands, and run nothing."""


@dataclass(frozen=True)
class Step:
    """One command of a stage."""

    stage: Path
    result: Path
    """This file exists once the command has succeeded; that of a training also says "finished"."""
    command: list[str]

    def is_done(self) -> bool:
        if self.result.name != STATUS:
            return self.result.exists()
        status = read_status(self.result.parent)
        return status is not None and status.state == "finished"


@dataclass(frozen=True)
class _Stage:
    """A stage of the recipe, without unknown keys."""

    number: int
    keys: Mapping[str, Any]
    place: str
    """File and number of the stage, for errors."""
    directory: Path
    start: list[str]
    """Words before a program that start it on the recipe's ranks."""

    def generate(self, common: Any) -> Iterator[Step]:
        """Yield the commands that generate data. `common`, here and below: the program's flags for all stages."""
        parts, place = self.keys.get("generate", []), f"{self.place}: generate"
        for i, part in enumerate(parts if isinstance(parts, list) else [parts], start=1):
            output = self.directory / f"data-{i}"
            flags = _flags_over(common, part, place)
            with named(place):
                check_generation(parse_dataclass(GenerationConfig, flags))
            command = [sys.executable, *program_words("launcher/generate_data.py"), *flags, "--output", str(output)]
            yield Step(self.directory, output / SUMMARY, command)

    def correct(self, common_play: Any, adapter: Path) -> list[Step]:
        """Return the commands by which the adapter plays and a teacher labels its games."""
        place = f"{self.place}: correct"
        label = dashed(self.keys["correct"], place)
        judged = dashed(common_play, f"{place}: play") if common_play else {}
        play: dict[str, Any] = {key: label.pop(key) for key in ("games", "max-steps") if key in label}
        play |= {key: judged[key] for key in ("base-model", "trust-remote-code") if key in judged}
        own, output = self.directory / "own-games", self.directory / "corrections"
        first_game = FIRST_OWN_GAME + self.number * OWN_GAMES
        play_flags = ["--player", "adapter", str(adapter), *_flags(play, place), "--seed-range", "train"]
        play_flags += ["--first-game", str(first_game), "--no-ladder", "--bank-states", "0", "--report", str(own)]
        log = own / GAMES_DIR / "adapter.jsonl"
        label_flags = ["--games", str(log), *_flags(label, place), "--output", str(output)]
        with named(place):
            parse_dataclass(Play, play_flags)
            check_correction(parse_dataclass(Correction, label_flags))
        return [
            Step(self.directory, own / REPORT, [*self.start, *program_words(PLAY), *play_flags]),
            Step(
                self.directory, output / SUMMARY, [sys.executable, *program_words("launcher/correct.py"), *label_flags]
            ),
        ]

    def train(self, common: Any, data: Sequence[Path], adapter: Path | None, ranks: int) -> Step:
        place = f"{self.place}: train"
        flags = [*_flags_over(common, self.keys.get("train"), place), "--data", *map(str, data)]
        flags += ["--init-adapter", str(adapter)] if adapter else []
        flags += ["--output-dir", str(self.directory / "run"), "--resume", "auto"]
        with named(place):
            check_run_flags(flags, ranks)
        return Step(self.directory, self.directory / "run" / STATUS, [*self.start, *program_words(TRAIN), *flags])

    def judge(self, common: Any, adapter: Path) -> Step:
        place = f"{self.place}: play"
        flags = ["--player", "adapter", str(adapter), *_flags_over(common, self.keys.get("play"), place)]
        flags += ["--report", str(self.directory / "report")]
        with named(place):
            parse_dataclass(Play, flags)
        return Step(self.directory, self.directory / "report" / REPORT, [*self.start, *program_words(PLAY), *flags])

    def is_true(self, key: str, default: str) -> bool:
        return as_bool(self.keys.get(key, default), self.place, key)


def read_climb(config: Climb) -> list[Step]:
    """List all commands of a recipe in their order, their flags checked. Raises InputError naming file, stage, key."""
    config = replace(config, recipe=recipe_path(config.recipe, "climb"))
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
                raise InputError(f"{stage.place}: correct: no earlier stage trained an adapter that could play")
            played, corrected = stage.correct(recipe.get("play"), adapter)
            steps += [played, corrected]
            written.append(corrected)
        data += [step.result.parent for step in written]
        if not data:
            raise InputError(f"{stage.place}: no data to train on: generate is missing")
        steps.append(stage.train(recipe.get("train"), data, adapter, ranks))
        adapter = stage.directory / "run" / ADAPTER_DIR
        steps.append(stage.judge(recipe.get("play"), adapter))
    return steps


def _stages(recipe: Mapping[str, Any], config: Climb, start: list[str]) -> Iterator[_Stage]:
    stages = recipe.get("stages")
    if not isinstance(stages, list) or not stages:
        raise InputError(f"{config.recipe}: stages: must be a list of stages")
    names: set[str] = set()
    for number, stage in enumerate(stages, start=1):
        place = f"{config.recipe}: stage {number}"
        keys = known_keys(stage, place, _STAGE_KEYS)
        name = str(keys.get("name", ""))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name) or name in names:
            raise InputError(f"{place}: name {name!r}: must be small letters, digits and -, unlike other stages")
        names.add(name)
        yield _Stage(number, keys, place, config.output / f"{number}-{name}", start)


def _flags_over(common: Any, own: Any, place: str) -> list[str]:
    """Return a program's flags for all stages, overridden by those of this stage."""
    return _flags(dashed(common or {}, place) | dashed(own or {}, place), place)


def _flags(value: Any, place: str) -> list[str]:
    mapping = dashed(value, place)
    owned = sorted(set(mapping) & set(_OWNED))
    if owned:
        raise InputError(f"{place}: {owned[0]} is set by the climb")
    return flags_of(mapping, place)


def _whole(text: Any, place: str) -> int:
    if not str(text).isdigit() or int(text) < 1:
        raise InputError(f"{place} is {text!r}: must be a whole number, at least 1")
    return int(text)
