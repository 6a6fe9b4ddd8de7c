"""Games of a heuristic, played on all cores and written as training data: the same bytes for the same config.

The output directory holds `{POLICY}_dataset.jsonl`, one line a move, `game_N.json`, enough to replay game N, and
`summary.json`. Worker processes write chunks of games to part files, which are joined in the order of the games. Only a
few chunks wait at a time, on disk and not in memory.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from snake_dist.cores import usable_cores
from snake_dist.data.game_lines import Outcome, part_path, play_chunk, write_json
from snake_dist.data.generation_config import FILTERS, GenerationConfig, check_generation
from snake_dist.data.parallel import ordered_map
from snake_dist.errors import InputError
from snake_dist.files import SUMMARY, new_directory
from snake_dist.game.board import End
from snake_dist.game.symmetry import NUM_SYMMETRIES

MAX_CHUNK_GAMES = 32


def default_output_dir(config: GenerationConfig, now: datetime) -> Path:
    """Return the public layout's directory, below the working directory."""
    stamp = f"heuristics_v0.04_{now:%Y%m%d_%H%M%S}"
    return Path("logs/extensions/datasets") / f"grid-size-{config.grid_size}" / stamp / config.policy


def generate(config: GenerationConfig, output_dir: Path, workers: int | None = None) -> dict[str, Any]:
    """Play the games and write the data set; returns what `summary.json` holds.

    The directory appears complete or not at all: it is built as a hidden sibling and renamed. `workers` processes play
    (None: one a core; 1: this process); the bytes do not depend on it. A terminal shows a progress bar. Raises
    InputError for a bad configuration, an output directory that is not empty or cannot be written, and filters that
    leave no line.
    """
    check_generation(config)
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least 1")
    with new_data_directory(output_dir) as building:
        summary = _play_all(config, building, workers or usable_cores())
        if summary["lines"]["written"] == 0:
            raise InputError(f"no line of {config.games} games passes the filters {_active_filters(config)}")
        write_json(building / SUMMARY, summary)
    return summary


def _play_all(config: GenerationConfig, directory: Path, workers: int) -> dict[str, Any]:
    from tqdm import tqdm

    chunk = min(max(config.games // (4 * workers), 1), MAX_CHUNK_GAMES)
    chunks = [range(i, min(i + chunk, config.games)) for i in range(0, config.games, chunk)]
    played = ordered_map(partial(play_chunk, config, directory), chunks, workers)
    outcomes: list[Outcome] = []
    seen, num_repeated = Counter[str](), 0
    bar = tqdm(total=config.games, desc="games", unit="game", disable=None)  # None: no bar unless stderr is a terminal
    with (directory / f"{config.policy.upper()}_dataset.jsonl").open("wb") as dataset, closing(played), bar:
        for games, part_outcomes in zip(chunks, played, strict=True):
            part = part_path(directory, games)
            with part.open("rb") as lines:
                num_repeated += _append(lines, dataset, config.max_lines_per_prompt, seen)
            part.unlink()
            outcomes += part_outcomes
            bar.update(len(games))
        dataset.flush()
        os.fsync(dataset.fileno())
    return _summary(config, outcomes, num_repeated)


def _append(lines: BinaryIO, dataset: BinaryIO, most: int, seen: Counter[str]) -> int:
    """Append the lines, of those with one prompt the first `most` (0: all); returns how many were left out.

    `seen` counts the lines of each prompt, from the first part on.
    """
    if most == 0:
        shutil.copyfileobj(lines, dataset, 1 << 20)
        return 0
    num_left_out = 0
    for line in lines:
        prompt = json.loads(line)["prompt"]
        seen[prompt] += 1
        if seen[prompt] <= most:
            dataset.write(line)
        else:
            num_left_out += 1
    return num_left_out


def _summary(config: GenerationConfig, outcomes: list[Outcome], num_repeated: int) -> dict[str, Any]:
    scores, ends = [game.score for game in outcomes], Counter(game.end for game in outcomes)
    dropped = sum((game.dropped for game in outcomes), Counter[str](max_lines_per_prompt=num_repeated))
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


@contextmanager
def new_data_directory(output_dir: Path) -> Iterator[Path]:
    """Yield a hidden directory that is renamed to `output_dir` at the end of the block.

    Raises InputError if `output_dir` is not empty, is a mount point or cannot be written.
    """
    target = output_dir.expanduser().resolve()
    with ExitStack() as stack:
        with _problems_named(output_dir):
            if target.exists() and any(target.iterdir()):
                raise InputError(f"output directory {output_dir} is not empty: name a new one")
            if target.is_mount():
                raise InputError(f"output directory {output_dir} is a mount point: name a new directory inside it")
            building = stack.enter_context(new_directory(target))
        yield building
        with _problems_named(output_dir):
            stack.close()  # renames


@contextmanager
def _problems_named(output_dir: Path) -> Iterator[None]:
    """Turn an OSError into an InputError that names the directory."""
    try:
        yield
    except OSError as error:
        raise InputError(f"output directory {output_dir}: {error.strerror}: {error.filename}") from error
