"""Show where and why logged games were lost, and which claims of the player were false."""

from __future__ import annotations

from snake_dist.cli import parse_dataclass
from snake_dist.evaluation.report.analysis import Analysis, analyse


def main(argv: list[str]) -> None:
    print(analyse(parse_dataclass(Analysis, argv)))
