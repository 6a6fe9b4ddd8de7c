"""Label a player's own games with a teacher's answers: training data for its next round.

python launcher/play.py --player adapter DIR --seed-range train --games 100 --report REPORT --no-ladder
python launcher/correct.py --games REPORT/games/adapter.jsonl --policy bfs-safe --style compact --output DATA
"""

from __future__ import annotations

from snake_dist.cli import parse_dataclass, run_launcher
from snake_dist.climb.correction import Correction, correct


def main(argv: list[str]) -> None:
    config = parse_dataclass(Correction, argv)
    summary = correct(config)
    print(f"{summary['lines']['written']} lines in {config.output}: {summary['positions']}")


if __name__ == "__main__":
    run_launcher(main)
