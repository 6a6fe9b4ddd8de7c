"""A comparison by play.py, from its flags to its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from snake_dist.data.templates import Template
from snake_dist.errors import InputError, check_at_least
from snake_dist.evaluation.judging.comparison import Results, judge
from snake_dist.evaluation.judging.episodes import Episode, Games, game_seeds
from snake_dist.evaluation.judging.human_logs import read_human_games
from snake_dist.evaluation.judging.spread import Ranks
from snake_dist.evaluation.judging.state_bank import build_bank
from snake_dist.evaluation.players.entrants import (
    Entrant,
    PlayerOptions,
    check_board,
    find_entrants,
    ladder_entrants,
    mode_entrants,
    split_adapters,
)
from snake_dist.evaluation.players.trained_prompts import adapter_prompts
from snake_dist.evaluation.report.animation import check_gif_path, write_gif
from snake_dist.evaluation.report.numbers import render_table, write_report
from snake_dist.evaluation.report.page import write_page
from snake_dist.files import lock_directory
from snake_dist.game.board import ModeOrAuto, State
from snake_dist.game.rules import SeedRange
from snake_dist.styles.catalog import PromptStyleName


@dataclass(frozen=True)
class Play:
    """Play held-out games of Snake and write a report."""

    player: tuple[str, ...]
    """One or more players: a heuristic's name, base, openai, human, adapter DIR... (each adapter's base also plays)."""
    games: int = 200
    """Each player plays this many games."""
    grid_size: int | None = None
    """N of the N x N board; default: the adapter's, else 10."""
    mode: ModeOrAuto = "auto"
    """Rules of the board; auto: the adapter's, else classic."""
    max_steps: int = 0
    """Stop a game after this many moves and count it as step_cap; 0: no limit."""
    symmetry: int = 0
    """Show the board turned or mirrored: 1 flips x, 2 flips y, 3 flips both; 4 to 7: the same with x and y swapped."""
    seed_range: SeedRange = "test"
    """Take the games from this published range of seeds."""
    first_game: int = 0
    """Begin at this seed of the range, counted from 0."""
    base_model: str | None = None
    """For --player base: hub id, local directory, or smollm2-135m, the default; for adapters: their base model, if it
    was moved since the training."""
    trust_remote_code: bool = False
    """Run the Python code that comes with base models."""
    style: PromptStyleName | None = None
    """Style of the prompts: for --player base and openai, by default compact; for adapters whose files do not say
    theirs."""
    template: Template | None = None
    """What stands around a prompt, as in train.py: for --player base, by default plain; for adapters whose files do not
    say theirs."""
    endpoint: str | None = None
    """For --player openai: URL of an OpenAI-compatible server, as http://localhost:8000/v1; $OPENAI_API_KEY: key."""
    model: str | None = None
    """For --player openai: name of the model at the endpoint."""
    few_shot: int = 0
    """Base models also play with this many solved positions before each prompt, as players of their own."""
    constrained: bool = False
    """Models also play by choosing the likeliest of the four moves, as players of their own."""
    report: Path | None = None
    """Directory for report.html, report.json and a log of every game; games in its logs are not played again."""
    bank_states: int = 200
    """With --report: judge single moves on this many unseen positions; 0: none."""
    gif: Path | None = None
    """File for an animated GIF of the first game of the adapter, or else of the first player."""
    human_pace: int = 0
    """For --player human: the snake moves by itself after this many milliseconds; 0: turn-based."""
    human_log: tuple[Path, ...] = ()
    """Add the games in these logs, which humans downloaded from the report page or wrote at a terminal."""
    ladder: bool = True
    """With --report: the heuristics from random-legal to hamiltonian play the same games."""


def play(config: Play, ranks: Ranks = Ranks()) -> Results:  # noqa: B008 - frozen
    """Play, print the table, write the report and the animation if asked; returns the numbers.

    All `ranks` call it; rank 0 prints and writes. Raises InputError before any game.
    """
    locks: list[FileLock] = []  # rank 0's, held until this function ends

    def lock() -> None:
        if config.report is not None:
            locks.append(lock_directory(config.report, f"--report {config.report}"))

    check_at_least(config, games=1, first_game=0, max_steps=0, symmetry=0, bank_states=0, human_pace=0, few_shot=0)
    if config.symmetry > 7:
        raise InputError(f"--symmetry {config.symmetry}: 0 to 7")
    if config.gif:
        check_gif_path(config.gif)
    if ranks.size > 1 and "human" in config.player:
        raise InputError(f"--player human: one process, not {ranks.size}: start play.py with plain python")
    options = PlayerOptions(
        config.base_model,
        config.style,
        config.human_pace,
        config.endpoint,
        config.model,
        config.template,
        config.trust_remote_code,
    )
    entrants, board = find_entrants(config.player, options)
    grid_size, mode = board or (10, "classic")
    games = Games(
        config.grid_size or grid_size,
        mode if config.mode == "auto" else config.mode,
        game_seeds(config.games, config.seed_range, config.first_game),
        config.max_steps,
        config.symmetry,
    )
    check_board(config.player, games.grid_size, games.mode)
    entrants += mode_entrants(entrants, games.grid_size, games.mode, config.few_shot, config.constrained)
    if config.report and config.ladder:
        entrants += ladder_entrants(entrants)
    human_games = read_human_games(config.human_log, games)
    adapters = split_adapters(config.player)[1]
    trained = {name: adapter_prompts(directory) for name, directory in adapters.items()}

    def is_trained(state: State) -> bool:
        return any(prompts is not None and prompts.hold(state) for prompts in trained.values())

    num_states = config.bank_states if config.report else 0
    bank = build_bank(games.grid_size, games.mode, num_states, is_trained=is_trained)
    ranks.agree(lock)
    results, episodes = judge(entrants, games, bank, config.report, human_games=human_games, ranks=ranks)
    results["trained_positions"] = {
        name: None if prompts is None else len(prompts.hashes) for name, prompts in trained.items()
    }
    if results["players"] and ranks.is_main:
        print(render_table(results["players"]))
        _write(config, entrants, games, results, episodes, adapters)
    return results


def _write(
    config: Play,
    entrants: Sequence[Entrant],
    games: Games,
    results: Results,
    episodes: Mapping[str, Sequence[Episode]],
    adapters: Mapping[str, Path],
) -> None:
    """Write the animation and the report, where a flag asks for them."""
    if config.gif:
        name = next((entrant.name for entrant in entrants if entrant.base), next(iter(episodes)))
        write_gif(config.gif, episodes[name][0], name)
        print(f"animation: {config.gif}")
    if config.report is not None:
        runs = {label: directory.absolute().parents[1] for label, directory in adapters.items()}
        write_report(config.report, results, games.settings() | {"seed_range": config.seed_range})
        print(f"report: {write_page(config.report, runs)}")
