"""What a data set is generated from: the flags of generate_data.py, and which values they may have."""

from __future__ import annotations

from dataclasses import dataclass

from snake_dist.errors import InputError, check_at_least
from snake_dist.game.rules import SEED_RANGES, check_game_options
from snake_dist.heuristics.policies import check_policy
from snake_dist.styles.catalog import STYLES, check_style, check_teacher

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
    check_teacher(config.style, config.policy)
    off_cycle = config.mode == "obstacles" or config.random_move_rate or config.augment_symmetries
    if STYLES[config.style].on_cycle and off_cycle:
        raise InputError(
            f"--style {config.style} follows a cycle: not with --mode obstacles, --random-move-rate or "
            "--augment-symmetries"
        )
    if config.seed_range not in SEED_RANGES:
        raise InputError(f"unknown seed range {config.seed_range!r}: choose from {', '.join(SEED_RANGES)}")
    check_at_least(config, games=1, max_steps_per_game=0, max_lines_per_length=0)
    first, last = config.seed, config.seed + config.games - 1
    seeds = SEED_RANGES[config.seed_range]
    if first not in seeds or last not in seeds:
        raise InputError(
            f"seeds {first} to {last} are not all in the {config.seed_range} range: {seeds[0]} to {seeds[-1]}"
        )
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
    if not 0 <= config.min_score < config.grid_size**2:
        raise InputError(f"minimum score {config.min_score} is outside 0 to {config.grid_size**2 - 1}")
