"""Play games of a heuristic on all cores and write them as training data."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from snake_dist.cli import parse_dataclass
from snake_dist.data.generation import default_output_dir, generate
from snake_dist.data.generation_config import GenerationConfig


@dataclass(frozen=True)
class Generate:
    """Play games of a heuristic and write them as training data."""

    games: GenerationConfig = field(default_factory=GenerationConfig)
    output: Path | None = None
    """Directory, new or empty; default: logs/extensions/datasets/grid-size-N/heuristics_v0.04_TIMESTAMP/POLICY."""
    workers: int | None = None
    """Number of worker processes; default: one per core. The bytes written do not depend on it."""


def main(argv: list[str]) -> None:
    flags = parse_dataclass(Generate, argv)
    output = flags.output or default_output_dir(flags.games, datetime.now())
    summary = generate(flags.games, output, flags.workers)
    score, ends = summary["score"], {end: count for end, count in summary["ends"].items() if count}
    print(f"{summary['lines']['written']} lines of {summary['games']} games in {output}")
    print(f"apples a game: {score['mean']:.2f}, from {score['min']} to {score['max']}; ended by {ends}")
