"""The board of a run's games, and the style of its prompts: what the flags say, else what the data shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from snake_dist.data.dataset import TokenizedDataset
from snake_dist.data.forms import parse_columns
from snake_dist.data.records import read_records
from snake_dist.data.sources import resolve_paths
from snake_dist.errors import InputError
from snake_dist.run.config import RunConfig
from snake_dist.styles.catalog import prompt_style, read_prompt

Value = TypeVar("Value")


@dataclass(frozen=True)
class Board:
    """The board of the games, and how a prompt shows a position."""

    grid_size: int
    mode: str
    style: str | None
    """None if the data's prompts are of no known style: then the run plays no games."""


def find_board(config: RunConfig) -> Board:
    """Return grid size, mode and style: of the flags, else of the first line of --data, else 10, classic, compact.

    Raises InputError if flags and data contradict each other.
    """
    play = config.play
    mode = None if play.mode == "auto" else play.mode
    style = None if play.style == "auto" else play.style
    if not config.data.data:
        return Board(play.grid_size or 10, mode or "classic", style or "compact")
    paths = resolve_paths(config.data.data)
    columns = parse_columns(config.data.columns)
    read = read_prompt(next(read_records(paths, config.data.bad_lines, columns=columns)).prompt)
    if read is None:
        return Board(play.grid_size or 10, mode or "classic", style)
    prompts_style, shown = read
    return Board(
        _agreeing("--grid-size", play.grid_size, shown.grid_size, paths[0]),
        _agreeing("--mode", mode, shown.mode, paths[0]),
        style or prompts_style,
    )


def name_style(board: Board, config: RunConfig, dataset: TokenizedDataset) -> Board:
    """Return the board in the style that all lines name, if prompts show one of several: `move`, not `compact`.

    The board as it is where --style says another, where lines name none or several, and where what they name has
    other prompts than the first line.
    """
    named = dataset.style
    if config.play.style != "auto" or named is None or prompt_style(named) != board.style:
        return board
    return replace(board, style=named)


def _agreeing(flag: str, given: Value | None, seen: Value, path: Path) -> Value:
    if given not in (None, seen):
        raise InputError(f"{flag} {given}: the prompts in {path} show {seen}")
    return seen
