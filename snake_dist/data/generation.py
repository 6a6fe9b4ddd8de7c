"""Plays heuristic games on all cores and writes them as training data: the same bytes for the same config.

The output directory holds `{POLICY}_dataset.jsonl`, one line a move, `game_N.json`, enough to replay game N,
and `summary.json`. Worker processes write chunks of games to part files, joined in the order of the games: few
chunks are under way at a time, on disk and not in memory.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from snake_dist.data.games import Outcome, part_path, play_chunk, write_json
from snake_dist.data.parallel import num_usable_cores, ordered_map
from snake_dist.data.symmetry import NUM_SYMMETRIES
from snake_dist.errors import InputError
from snake_dist.game.board import End
from snake_dist.game.rules import SEED_RANGES, check_game_options
from snake_dist.game.text import check_style
from snake_dist.heuristics.policies import check_policy

FILTERS = (
    "line_rate",
    "min_snake_length",
    "max_snake_length",
    "max_lines_per_length",
    "min_score",
    "only_survived",
    "only_shortest_path",
    "only_declined_apple",
    "only_blocked_apple",
)
"""Fields of the config that keep moves from becoming lines; a move is counted under one of them."""

MAX_CHUNK_GAMES = 32


@dataclass(frozen=True)
class GenerationConfig:
    """What is played and what is written."""

    policy: str = "bfs-safe"
    """Teacher: random-legal, greedy, bfs, bfs-safe, dfs, astar, hamiltonian or hamiltonian-shortcuts."""
    grid_size: int = 10
    """N of the N x N board, 4 to 50."""
    mode: str = "classic"
    """Rules of the board: classic, wrap or obstacles."""
    games: int = 200
    """Games played; game i of them (from 0) has the seed `seed + i`."""
    style: str = "compact"
    """How prompt and completion are written: sentence, board, short, compact, move, facts, path or cycle."""
    seed: int = 0
    """Seed of the first game."""
    seed_range: str = "train"
    """Where all seeds must lie: train, dev or test. Lines of dev and test games are refused for training."""
    max_steps_per_game: int = 0
    """Moves after which a game is stopped (end reason step_cap); 0 for no limit."""
    random_move_rate: float = 0.0
    """Share of moves, 0 to 1, where a random legal move is played while the line teaches the teacher's."""
    line_rate: float = 1.0
    """Share of moves, 0 to 1, that give a line, drawn at random: many games at few lines each."""
    min_snake_length: int = 0
    """Shorter snakes give no lines."""
    max_snake_length: int = 0
    """Longer snakes give no lines; 0 for no limit."""
    max_lines_per_length: int = 0
    """Lines that one game gives for each snake length, at most, drawn at random; 0 for no limit."""
    min_score: int = 0
    """Games with fewer apples give no lines."""
    only_survived: bool = False
    """Games that ended in death or starved give no lines."""
    only_shortest_path: bool = False
    """Moves that do not begin a shortest path to the apple give no line."""
    only_declined_apple: bool = False
    """Only moves that pass an apple beside the head by give lines: rare, and where a model is lost that takes it."""
    only_blocked_apple: bool = False
    """Only positions where no legal move leads nearer to the apple give lines: a model that learned to go to the apple
    runs into what blocks it."""
    augment_symmetries: bool = False
    """Write every line 8 times, once for each symmetry of the square, under the same game_id."""


def check_generation(config: GenerationConfig) -> None:
    """Raise InputError unless data can be generated like this."""
    check_policy(config.policy)
    check_game_options(config.grid_size, config.mode)
    check_style(config.style)
    if config.seed_range not in SEED_RANGES:
        raise InputError(f"unknown seed range {config.seed_range!r}: choose from {', '.join(SEED_RANGES)}")
    if config.games < 1:
        raise InputError(f"games {config.games} is less than 1")
    first, last = config.seed, config.seed + config.games - 1
    seeds = SEED_RANGES[config.seed_range]
    if first not in seeds or last not in seeds:
        raise InputError(
            f"seeds {first} to {last} are not all in the {config.seed_range} range: {seeds[0]} to {seeds[-1]}"
        )
    if config.max_steps_per_game < 0:
        raise InputError(f"max steps per game {config.max_steps_per_game} is negative: use 0 for no limit")
    if not 0 <= config.random_move_rate <= 1:
        raise InputError(f"random move rate {config.random_move_rate} is not between 0 and 1")
    if not 0 < config.line_rate <= 1:
        raise InputError(f"line rate {config.line_rate} is not above 0 and at most 1")
    longest = config.grid_size**2
    for name in ("min_snake_length", "max_snake_length"):
        if not 0 <= getattr(config, name) <= longest:
            raise InputError(f"{name.replace('_', ' ')} {getattr(config, name)} is outside 0 to {longest}")
    if config.max_snake_length and config.min_snake_length > config.max_snake_length:
        raise InputError(f"snake lengths {config.min_snake_length} to {config.max_snake_length} leave no line")
    if config.max_lines_per_length < 0:
        raise InputError(f"max lines per length {config.max_lines_per_length} is negative: use 0 for no limit")
    if config.style == "cycle":
        check_cycle_style(config)
    if not 0 <= config.min_score < config.grid_size**2:
        raise InputError(f"minimum score {config.min_score} is outside 0 to {config.grid_size**2 - 1}")


def check_cycle_style(config: GenerationConfig) -> None:
    """Raise InputError unless all lines can be written in style cycle."""
    teacher = "hamiltonian-shortcuts"
    if config.policy != teacher or config.mode == "obstacles" or config.random_move_rate or config.augment_symmetries:
        raise InputError(
            f"style cycle needs --policy {teacher}, a mode with a cycle (classic or wrap), and neither "
            f"--random-move-rate nor --augment-symmetries: got policy {config.policy}, mode {config.mode}"
        )


def default_output_dir(config: GenerationConfig, now: datetime) -> Path:
    """The public layout's directory, below the working directory."""
    stamp = f"heuristics_v0.04_{now:%Y%m%d_%H%M%S}"
    return Path("logs/extensions/datasets") / f"grid-size-{config.grid_size}" / stamp / config.policy


def generate(
    config: GenerationConfig, output_dir: Path, workers: int | None = None, show_progress: bool = True
) -> dict[str, Any]:
    """Play the games and write the data set; returns what `summary.json` holds.

    The directory appears complete or not at all: it is built as a hidden sibling and renamed. `workers`
    processes play (None: one a core; 1: this process); the bytes do not depend on it. A progress bar is shown
    on standard error if that is a terminal. Raises InputError for a bad configuration, an output directory
    that is not empty or cannot be made, and filters that leave no line.
    """
    check_generation(config)
    if workers is not None and workers < 1:
        raise InputError(f"workers {workers} is less than 1")
    output_dir, building = make_building_dir(output_dir)
    try:
        summary = _play_all(config, building, workers or num_usable_cores(), show_progress)
        if summary["lines"]["written"] == 0:
            raise InputError(f"no line of {config.games} games passes the filters {_active_filters(config)}")
        write_json(building / "summary.json", summary)
        try:
            building.rename(output_dir)
        except OSError as error:
            raise InputError(f"output directory {output_dir}: {error.strerror}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return summary


def _play_all(config: GenerationConfig, directory: Path, workers: int, show_progress: bool) -> dict[str, Any]:
    from tqdm import tqdm

    chunk = min(max(config.games // (4 * workers), 1), MAX_CHUNK_GAMES)
    chunks = [range(i, min(i + chunk, config.games)) for i in range(0, config.games, chunk)]
    played = ordered_map(partial(play_chunk, config, directory), chunks, workers)
    outcomes: list[Outcome] = []
    # disable=None: no bar where standard error is a file.
    bar = tqdm(total=config.games, desc="games", unit="game", disable=None if show_progress else True)
    with (directory / f"{config.policy.upper()}_dataset.jsonl").open("wb") as dataset, closing(played), bar:
        for games, part_outcomes in zip(chunks, played, strict=True):
            part = part_path(directory, games)
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, dataset, 1 << 20)
            part.unlink()
            outcomes += part_outcomes
            bar.update(len(games))
        dataset.flush()
        os.fsync(dataset.fileno())
    return _summary(config, outcomes)


def _summary(config: GenerationConfig, outcomes: list[Outcome]) -> dict[str, Any]:
    scores, ends = [game.score for game in outcomes], Counter(game.end for game in outcomes)
    dropped = sum((game.dropped for game in outcomes), Counter[str]())
    num_moves = sum(game.num_moves for game in outcomes)
    kept = num_moves - dropped.total()
    return {
        "config": asdict(config),
        "seeds": {"first": config.seed, "last": config.seed + config.games - 1},
        "games": len(outcomes),
        "score": {"mean": sum(scores) / len(scores), "min": min(scores), "max": max(scores)},
        "ends": {end.value: ends[end] for end in End},
        "moves": num_moves,
        "lines": {
            "kept": kept,
            "dropped": {name: dropped[name] for name in FILTERS},
            "written": kept * (NUM_SYMMETRIES if config.augment_symmetries else 1),
        },
        "versions": {"python": platform.python_version(), "snake_dist": _package_version()},
    }


def _package_version() -> str:
    try:
        return version("snake_dist")
    except PackageNotFoundError:
        return "not installed"


def _active_filters(config: GenerationConfig) -> str:
    defaults, values = GenerationConfig(), {name: getattr(config, name) for name in FILTERS}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != getattr(defaults, name))


def make_building_dir(output_dir: Path) -> tuple[Path, Path]:
    """(the resolved output directory, a new hidden directory beside it); InputError if it cannot be had."""
    target = output_dir.expanduser().resolve()
    try:
        if target.exists() and any(target.iterdir()):
            raise InputError(f"output directory {output_dir} is not empty: name a new one")
        if target.is_mount():
            raise InputError(f"output directory {output_dir} is a mount point: name a new directory inside it")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, so that `records` passes over what a killed run leaves.
        building = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        building.mkdir()
    except OSError as error:
        raise InputError(f"output directory {output_dir}: {error.strerror}: {error.filename}") from error
    return target, building
