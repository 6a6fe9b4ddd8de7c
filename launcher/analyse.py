"""Show where and why logged games were lost, and which claims of the player were false.

python launcher/analyse.py --games REPORT/games/adapter.jsonl --policy hamiltonian-shortcuts --adapter DIR
"""

from __future__ import annotations

from snake_dist.cli import parse_dataclass, run_launcher
from snake_dist.evaluation.report.analysis import Analysis, analyse


def main(argv: list[str]) -> None:
    print(analyse(parse_dataclass(Analysis, argv)))


if __name__ == "__main__":
    run_launcher(main)
