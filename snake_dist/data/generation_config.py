"""What a data set is generated from: the flags of generate_data.py, and which values they may have."""

from __future__ import annotations

from dataclasses import dataclass

from snake_dist.errors import InputError, check_at_least
from snake_dist.game.board import ModeName
from snake_dist.game.rules import SEED_RANGES, SeedRange, check_game_options
from snake_dist.heuristics.policies import PolicyName, check_plays_on, check_policy
from snake_dist.styles.catalog import STYLES, StyleName, check_style, check_teacher

FILTERS = (
    "line_rate",
    "min_snake_length",
    "max_snake_length",
    "max_lines_per_length",
    "max_lines_per_prompt",
    "min_score",
    "only_survived",
    "only_shortest_path",
    "only_declined_apple",
    "only_blocked_apple",
    "only_asked",
)
"""Fields of the config that keep moves from becoming lines; a move is counted under one of them."""


@dataclass(frozen=True)
class GenerationConfig:
    """Which games are played, and which of their moves are written."""

    policy: PolicyName = "bfs-safe"
    """Teacher: the heuristic that plays."""
    grid_size: int = 10
    """N of the N x N board, 4 to 50."""
    mode: ModeName = "classic"
    """Rules of the board."""
    games: int = 200
    """Number of games; game i of them (from 0) has the seed --seed + i."""
    style: StyleName = "compact"
    """How prompt and completion are written."""
    seed: int = 0
    """Seed of the first game."""
    seed_range: SeedRange = "train"
    """Range in which all seeds must lie. Training refuses lines of dev and test games."""
    max_steps_per_game: int = 0
    """Stop a game after this many moves (end reason step_cap); 0 for no limit."""
    random_move_rate: float = 0.0
    """Share of moves, 0 to 1, at which a random legal move is played; the line still teaches the teacher's."""
    line_rate: float = 1.0
    """Share of moves, above 0 to 1, that give a line, drawn at random: many games, a few lines of each."""
    min_snake_length: int = 0
    """Write no lines of shorter snakes."""
    max_snake_length: int = 0
    """Write no lines of longer snakes; 0 for no limit."""
    max_lines_per_length: int = 0
    """Write at most this many lines of each snake length from a game, drawn at random; 0 for no limit."""
    max_lines_per_prompt: int = 0
    """Write at most this many lines of each prompt, those of the first games; 0 for no limit. The games of a small
    board come to a few positions again and again, and to most of them seldom."""
    min_score: int = 0
    """Write no lines of games with fewer apples."""
    only_survived: bool = False
    """Write no lines of games that ended in death or starved."""
    only_shortest_path: bool = False
    """Write only moves that begin a shortest path to the apple."""
    only_declined_apple: bool = False
    """Write only moves that pass by an apple beside the head: rare, and a model that takes it is lost."""
    only_blocked_apple: bool = False
    """Write only positions where no legal move leads nearer to the apple: a model that learned to go to the apple runs
    into what blocks it."""
    only_asked: bool = False
    """Write only positions at which a player of this style is asked, if it plays as the teacher: one whose replies name
    several moves is asked no sooner than they are made, or an apple is eaten."""
    augment_symmetries: bool = False
    """Write every line 8 times, once for each symmetry of the square, under the same game_id."""


def check_generation(config: GenerationConfig) -> None:
    """Raise InputError unless data can be generated like this."""
    check_policy(config.policy)
    check_plays_on(config.policy, config.grid_size, config.mode)
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
    check_at_least(config, games=1, max_steps_per_game=0, max_lines_per_length=0, max_lines_per_prompt=0)
    if config.max_lines_per_prompt and config.augment_symmetries:
        raise InputError("--max-lines-per-prompt counts lines as they are played: not with --augment-symmetries")
    first, last = config.seed, config.seed + config.games - 1
    seeds = SEED_RANGES[config.seed_range]
    if first not in seeds or last not in seeds:
        raise InputError(
            f"seeds {first} to {last} are not all in the {config.seed_range} range: {seeds[0]} to {seeds[-1]}"
        )
    num_cells = config.grid_size**2
    for name, most in {
        "random_move_rate": 1,
        "line_rate": 1,
        "min_snake_length": num_cells,
        "max_snake_length": num_cells,
        "min_score": num_cells - 1,
    }.items():
        value = getattr(config, name)
        if not 0 <= value <= most or (name == "line_rate" and value == 0):
            above = "above 0, at most" if name == "line_rate" else "0 to"
            raise InputError(f"--{name.replace('_', '-')} {value}: {above} {most}")
    if config.max_snake_length and config.min_snake_length > config.max_snake_length:
        raise InputError(
            f"--min-snake-length {config.min_snake_length} is above --max-snake-length {config.max_snake_length}"
        )
