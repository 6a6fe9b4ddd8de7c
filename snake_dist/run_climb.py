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

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.publish import write_json_atomically, write_text_atomically
from snake_dist.checkpoint.run_dir import ADAPTER_DIR, read_status
from snake_dist.cluster.local import start_ranks
from snake_dist.cluster.recipes import dashed, flags_of, known_keys, read_recipe_mapping
from snake_dist.data.generation import GenerationConfig, check_generation
from snake_dist.errors import InputError
from snake_dist.evaluation.game_log import read_log
from snake_dist.evaluation.play import Play
from snake_dist.game.board import End
from snake_dist.run_config import check_run_flags, parse_dataclass
from snake_dist.run_correction import Correction, check_correction

FIRST_OWN_GAME = 500_000_000
"""Seeds from here on are those of the adapters' own training games, so many for each stage:"""
OWN_GAMES_PER_STAGE = 1_000_000
_KEYS = {"ranks", "train", "play", "stages"}
_STAGE_KEYS = {"name", "generate", "correct", "train", "play", "earlier-data"}
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
        if self.result.name != "status.json":
            return self.result.exists()
        status = read_status(self.result.parent)
        return status is not None and status.get("state") == "finished"


def read_climb(config: Climb) -> list[Step]:
    """All commands of a recipe in their order, their flags checked. Raises InputError naming file, stage and key."""
    recipe = read_recipe_mapping(config.recipe, _KEYS)
    stages = recipe.get("stages")
    if not isinstance(stages, list) or not stages:
        raise InputError(f"{config.recipe}: stages: a list of stages is expected")
    ranks = _whole(recipe.get("ranks", "1"), f"{config.recipe}: ranks")
    start = start_ranks("torchrun", ranks)
    steps: list[Step] = []
    data: list[Path] = []
    adapter: Path | None = None
    names: set[str] = set()
    for number, stage in enumerate(stages, start=1):
        place = f"{config.recipe}: stage {number}"
        stage = known_keys(stage, place, _STAGE_KEYS)
        name = str(stage.get("name", ""))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name) or name in names:
            raise InputError(f"{place}: name {name!r}: small letters, digits and -, another for each stage")
        names.add(name)
        earlier = str(stage.get("earlier-data", "true")).lower()
        if earlier not in ("true", "false"):
            raise InputError(f"{place}: earlier-data is {earlier!r}: true or false")
        if earlier == "false":
            data.clear()
        directory = config.output / f"{number}-{name}"
        steps += _data_steps(stage, directory, adapter, number, place, data, start)
        if not data:
            raise InputError(f"{place}: there is nothing to train on: generate is missing")
        train = _common(recipe, stage, "train", place)
        flags = [*train, "--data", *map(str, data), *(["--init-adapter", str(adapter)] if adapter else [])]
        flags += ["--output-dir", str(directory / "run"), "--resume", "auto"]
        with _named(f"{place}: train"):
            check_run_flags(flags, ranks)
        steps.append(Step(directory, directory / "run/status.json", [*start, "launcher/train.py", *flags]))
        adapter = directory / "run" / ADAPTER_DIR
        flags = ["--player", "adapter", str(adapter), *_common(recipe, stage, "play", place)]
        flags += ["--report", str(directory / "report")]
        with _named(f"{place}: play"):
            parse_dataclass(Play, flags)
        steps.append(
            Step(
                directory,
                directory / "report/report.json",
                [*start, "launcher/play.py", *flags],
            )
        )
    return steps


def _data_steps(
    stage: Mapping[str, Any],
    directory: Path,
    adapter: Path | None,
    number: int,
    place: str,
    data: list[Path],
    start: list[str],
) -> Iterator[Step]:
    """What makes the stage's data; its directories are added to `data`."""
    wanted = stage.get("generate", [])
    for i, part in enumerate(wanted if isinstance(wanted, list) else [wanted], start=1):
        output = directory / f"data-{i}"
        flags = _flags(part, f"{place}: generate")
        with _named(f"{place}: generate"):
            check_generation(parse_dataclass(GenerationConfig, flags))
        command = [sys.executable, "launcher/generate_data.py", *flags, "--output", str(output)]
        yield Step(directory, output / "summary.json", command)
        data.append(output)
    if "correct" not in stage:
        return
    if adapter is None:
        raise InputError(f"{place}: correct: the first stage has no adapter whose games could be corrected")
    part = dashed(stage["correct"], f"{place}: correct")
    play = {key: part.pop(key) for key in ("games", "max-steps") if key in part}
    own, output = directory / "own-games", directory / "corrections"
    first = FIRST_OWN_GAME + OWN_GAMES_PER_STAGE * number
    flags = ["--player", "adapter", str(adapter), *_flags(play, f"{place}: correct"), "--seed-range", "train"]
    flags += ["--first-game", str(first), "--no-ladder", "--bank-states", "0", "--report", str(own)]
    with _named(f"{place}: correct"):
        parse_dataclass(Play, flags)
    yield Step(directory, own / "report.json", [*start, "launcher/play.py", *flags])
    label = ["--games", str(own / "games/adapter.jsonl"), *_flags(part, f"{place}: correct"), "--output", str(output)]
    with _named(f"{place}: correct"):
        check_correction(parse_dataclass(Correction, label))
    yield Step(directory, output / "summary.json", [sys.executable, "launcher/correct.py", *label])
    data.append(output)


def write_results(steps: list[Step], output: Path) -> str:
    """`climb.json` and `climb.md` of all judged stages; returns the table."""
    stages = []
    for directory in dict.fromkeys(step.stage for step in steps):
        run, report = directory / "run/summary.json", directory / "report/report.json"
        if run.is_file() and report.is_file():
            stages.append(_stage_result(directory, json.loads(run.read_text()), json.loads(report.read_text())))
    write_json_atomically(output / "climb.json", {"stages": stages})
    rows = [
        "| stage | training tokens | minutes | held-out loss | apples per game | boards filled | moves per apple "
        "| moves to fill | legal moves |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(stage) for stage in stages),
    ]
    table = "\n".join(rows)
    write_text_atomically(output / "climb.md", table + "\n")
    return table


def _stage_result(directory: Path, summary: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    played = report["players"]["adapter"]
    games = read_log(directory / "report/games/adapter.jsonl", check=False)
    steps = [game.steps for _, game in games if game.end == End.BOARD_FULL.value]
    return {
        "stage": directory.name,
        "train_tokens": summary["training"]["num_tokens"],
        "seconds": summary["training"]["seconds"],
        "ranks": summary["world_size"],
        "trainable_share": summary["parameters"]["trainable_share"],
        "held_out_loss": summary["training"]["eval/loss"],
        "games": played["games"],
        "apples": played["apples"],
        "fill_rate": played["fill_rate"],
        "legal_move_rate": played["legal_move_rate"],
        "steps_per_apple": played["steps_per_apple"],
        "mean_steps_to_fill": sum(steps) / len(steps) if steps else None,
        "adapter": summary["adapter_dir"],
    }


def _row(stage: Mapping[str, Any]) -> str:
    def interval(value: Mapping[str, Any], scale: float = 1, digits: int = 2) -> str:
        low, high = (scale * end for end in value["ci95"])
        number = value["mean"] if "mean" in value else value["value"]
        return f"{scale * number:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    fill = stage["mean_steps_to_fill"]
    cells = [
        stage["stage"],
        f"{stage['train_tokens']:,}",
        f"{stage['seconds'] / 60:.0f}",
        f"{stage['held_out_loss']:.4f}",
        interval(stage["apples"]),
        interval(stage["fill_rate"], 100, 1) + " %",
        "-" if stage["steps_per_apple"] is None else f"{stage['steps_per_apple']:.1f}",
        "-" if fill is None else f"{fill:,.0f}",
        interval(stage["legal_move_rate"], 100) + " %",
    ]
    return f"| {' | '.join(cells)} |"


def _flags(value: Any, place: str) -> list[str]:
    mapping = dashed(value, place)
    owned = sorted(set(mapping) & set(_OWNED))
    if owned:
        raise InputError(f"{place}: {owned[0]} is set by the climb")
    return flags_of(mapping, place)


def _common(recipe: Mapping[str, Any], stage: Mapping[str, Any], key: str, place: str) -> list[str]:
    """The stage's flags of a program over those of all stages."""
    both = dashed(recipe.get(key) or {}, f"{place}: {key}") | dashed(stage.get(key) or {}, f"{place}: {key}")
    return _flags(both, f"{place}: {key}")


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
