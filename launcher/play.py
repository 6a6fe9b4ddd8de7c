"""Play games and report them: heuristics, base models, adapters beside their base, humans.

python launcher/play.py --player bfs-safe greedy --grid-size 10 --games 500 --seed-range dev
python launcher/play.py --player adapter DIR --games 200 --report DIR
"""

from __future__ import annotations

from snake_dist.evaluation.play import Play, play
from snake_dist.run_config import parse_dataclass, run_launcher


def main(argv: list[str]) -> None:
    play(parse_dataclass(Play, argv))


if __name__ == "__main__":
    run_launcher(main)
