"""Plays games of a heuristic and writes them as training data.

python launcher/generate_data.py --policy bfs-safe --grid-size 10 --games 200 --style compact --output DIR
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from snake_dist.data.generation import GenerationConfig, default_output_dir, generate
from snake_dist.errors import InputError
from snake_dist.game.board import MODES
from snake_dist.game.rules import SEED_RANGES
from snake_dist.game.text import PROMPT_STYLES
from snake_dist.heuristics.policies import POLICIES

DEFAULTS = GenerationConfig()


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, no usage text: what is wrong must not scroll away."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> Parser:
    parser = Parser(prog="generate_data.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    group = parser.add_argument_group("games")

    def flag(name: str, meaning: str) -> None:
        default = getattr(DEFAULTS, name.replace("-", "_"))
        if default is False:
            group.add_argument(f"--{name}", action="store_true", help=meaning)
        else:
            meaning = f"{meaning} (default: {default})"
            group.add_argument(f"--{name}", type=type(default), default=default, help=meaning)

    flag("policy", f"teacher: {', '.join(POLICIES)}")
    flag("grid-size", "N of the N x N board, 4 to 50")
    flag("mode", ", ".join(MODES))
    flag("games", "games played")
    flag("seed", "seed of the first game; each next game's is 1 higher")
    flag("seed-range", f"where all seeds must lie: {', '.join(SEED_RANGES)}")
    flag("max-steps-per-game", "moves after which a game is stopped; 0: no limit")
    flag("random-move-rate", "share of moves, 0 to 1, played at random while the line teaches the policy's")
    group = parser.add_argument_group("lines")
    flag("style", f"wording: {', '.join(PROMPT_STYLES)}")
    flag("line-rate", "share of moves, 0 to 1, that give a line, drawn at random")
    flag("min-score", "leave out games with fewer apples")
    flag("only-survived", "leave out games that ended in death or starved")
    flag("only-shortest-path", "leave out moves that begin no shortest path to the apple")
    flag("augment-symmetries", "write each line in all 8 symmetries of the square")
    group = parser.add_argument_group("run")
    group.add_argument("--output", type=Path, help="directory, new or empty (default: under logs/extensions)")
    group.add_argument("--workers", type=int, help="processes (default: one a core)")
    return parser


def main() -> None:
    flags = vars(parser().parse_args())
    output, workers = flags.pop("output"), flags.pop("workers")
    config = GenerationConfig(**flags)
    output = output or default_output_dir(config, datetime.now())
    try:
        summary = generate(config, output, workers)
    except (InputError, OSError) as error:
        parser().error(str(error))
    except KeyboardInterrupt:
        parser().exit(130, "generate_data.py: interrupted, nothing was written\n")
    score, ends = summary["score"], {end: count for end, count in summary["ends"].items() if count}
    print(f"{summary['lines']['written']} lines of {summary['games']} games in {output}")
    print(f"apples a game: {score['mean']:.2f}, from {score['min']} to {score['max']}; ended by {ends}")


if __name__ == "__main__":
    main()
