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
from snake_dist.evaluation.play import Play
from snake_dist.run_config import check_run_flags, parse_dataclass
from snake_dist.run_correction import Correction, check_correction

FIRST_OWN_GAME = 500_000_000
"""Seeds from here on are those of the adapters' own training games, so many for each stage:"""
OWN_GAMES = 1_000_000
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
        written = list(_generate_steps(stage, directory, place))
        steps += written
        if "correct" in stage:
            if adapter is None:
                raise InputError(f"{place}: correct: the first stage has no adapter whose games could be corrected")
            first_game = FIRST_OWN_GAME + number * OWN_GAMES
            played, corrected = _correct_steps(stage, directory, place, adapter, first_game, start)
            steps += [played, corrected]
            written.append(corrected)
        data += [step.result.parent for step in written]
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
        steps.append(Step(directory, directory / "report/report.json", [*start, "launcher/play.py", *flags]))
    return steps


def _generate_steps(stage: Mapping[str, Any], directory: Path, place: str) -> Iterator[Step]:
    wanted = stage.get("generate", [])
    for i, part in enumerate(wanted if isinstance(wanted, list) else [wanted], start=1):
        output = directory / f"data-{i}"
        flags = _flags(part, f"{place}: generate")
        with _named(f"{place}: generate"):
            check_generation(parse_dataclass(GenerationConfig, flags))
        command = [sys.executable, "launcher/generate_data.py", *flags, "--output", str(output)]
        yield Step(directory, output / "summary.json", command)


def _correct_steps(
    stage: Mapping[str, Any], directory: Path, place: str, adapter: Path, first_game: int, start: list[str]
) -> tuple[Step, Step]:
    """(the adapter plays, a teacher labels)"""
    part = dashed(stage["correct"], f"{place}: correct")
    play = {key: part.pop(key) for key in ("games", "max-steps") if key in part}
    own, output = directory / "own-games", directory / "corrections"
    flags = ["--player", "adapter", str(adapter), *_flags(play, f"{place}: correct"), "--seed-range", "train"]
    flags += ["--first-game", str(first_game), "--no-ladder", "--bank-states", "0", "--report", str(own)]
    label = ["--games", str(own / "games/adapter.jsonl"), *_flags(part, f"{place}: correct"), "--output", str(output)]
    with _named(f"{place}: correct"):
        parse_dataclass(Play, flags)
        check_correction(parse_dataclass(Correction, label))
    return (
        Step(directory, own / "report.json", [*start, "launcher/play.py", *flags]),
        Step(directory, output / "summary.json", [sys.executable, "launcher/correct.py", *label]),
    )


def write_results(steps: list[Step], output: Path) -> str:
    """`climb.json` and `climb.md`: every judged stage after the base model on the same board; returns the table."""
    stages = []
    rows = [
        "| stage | trained share | training tokens | minutes of training | held-out loss | board | games "
        "| apples per game | boards filled | steps per apple | steps to fill | legal moves |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    boards: set[str] = set()
    for directory in dict.fromkeys(step.stage for step in steps):
        trained, judged = directory / "run/summary.json", directory / "report/report.json"
        if trained.is_file() and judged.is_file():
            report = json.loads(judged.read_text())
            board, players = "{grid_size}x{grid_size} {mode}".format(**report["settings"]), report["players"]
            stage = _trained(directory.name, json.loads(trained.read_text()))
            stages.append(stage | {"board": board, "base": _played(players["base"])} | _played(players["adapter"]))
            if board not in boards:
                rows.append(_row(["base", *"----", board], players["base"]))
            boards.add(board)
            rows.append(_row([*_training_cells(stage), board], players["adapter"]))
    write_json_atomically(output / "climb.json", {"stages": stages})
    table = "\n".join(rows)
    write_text_atomically(output / "climb.md", table + "\n")
    return table


def _trained(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stage": name,
        "train_tokens": summary["training"]["num_tokens"],
        "seconds": summary["training"]["seconds"],
        "ranks": summary["world_size"],
        "trainable_share": summary["parameters"]["trainable_share"],
        "held_out_loss": summary["training"]["eval/loss"],
        "adapter": summary["adapter_dir"],
    }


def _played(player: Mapping[str, Any]) -> dict[str, Any]:
    """Of a player's numbers in report.json those that the table has."""
    names = ("games", "apples", "fill_rate", "legal_move_rate", "steps_per_apple", "steps_to_fill")
    return {name: player[name] for name in names}


def _training_cells(stage: Mapping[str, Any]) -> list[str]:
    share, tokens = f"{100 * stage['trainable_share']:.1f} %", f"{stage['train_tokens']:,}"
    return [stage["stage"], share, tokens, f"{stage['seconds'] / 60:.0f}", f"{stage['held_out_loss']:.4f}"]


def _row(training: list[str], played: Mapping[str, Any]) -> str:
    def interval(value: Mapping[str, Any], digits: int, scale: float = 1) -> str:
        number = value["mean"] if "mean" in value else value["value"]
        if number is None:
            return "-"
        bounds = value["ci95"] and " [{:,.{d}f}, {:,.{d}f}]".format(*(scale * end for end in value["ci95"]), d=digits)
        return f"{scale * number:,.{digits}f}{bounds or ''}"

    cells = [
        *training,
        str(played["games"]),
        interval(played["apples"], 1),
        interval(played["fill_rate"], 1, 100) + " %",
        "-" if played["steps_per_apple"] is None else f"{played['steps_per_apple']:.1f}",
        interval(played["steps_to_fill"], 0),
        interval(played["legal_move_rate"], 2, 100) + " %",
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
