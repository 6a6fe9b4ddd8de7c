"""Label a player's own games with a teacher's answers: training data for its next round."""

from __future__ import annotations

from snake_dist.cli import parse_dataclass
from snake_dist.climb.correction import Correction, correct


def main(argv: list[str]) -> None:
    config = parse_dataclass(Correction, argv)
    summary = correct(config)
    print(f"{summary['lines']['written']} lines in {config.output}: {summary['positions']}")
