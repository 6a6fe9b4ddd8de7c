"""The judge of a run's end and of play.py: every entrant on the same games and the same bank of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Episode, Games
from snake_dist.evaluation.judging.game_log import GameLog, log_path, open_log
from snake_dist.evaluation.judging.intervals import Gain
from snake_dist.evaluation.judging.match import play_match
from snake_dist.evaluation.judging.metrics import PlayerSummary, gain_over, summarize
from snake_dist.evaluation.judging.spread import Ranks
from snake_dist.evaluation.judging.state_bank import BankScores, score_bank
from snake_dist.evaluation.players.entrants import Entrant
from snake_dist.files import GAMES_DIR
from snake_dist.game.board import State

HumanGames = Mapping[str, tuple[str, Sequence[Episode]]]
"""Games played elsewhere: (identity, games) by player."""


class _Scores(TypedDict):
    players: dict[str, PlayerSummary]
    gain_over_base: dict[str, Gain]
    state_bank: dict[str, BankScores]


class Results(_Scores, total=False):
    """The numbers of a comparison by player, as report.json has them."""

    trained_positions: dict[str, int | None]
    """Training prompts of each adapter that the bank was checked against; None where they were not kept."""


def judge(
    entrants: Sequence[Entrant],
    games: Games,
    bank: Sequence[State],
    directory: Path | None,
    *,
    human_games: HumanGames = MappingProxyType({}),
    removes_foreign_logs: bool = False,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> tuple[Results, dict[str, list[Episode]]]:
    """Return the results, as `write_report` takes them, and all games.

    With a directory, games are logged in its `games/`, and games that the logs hold are not played again. A log of
    another player or other conditions, or a damaged one, is removed or raises InputError before anything is loaded.
    An entrant is loaded when its turn comes, and only if a game or the bank is left for it.

    All `ranks` call it and get the same; rank 0 alone reads and writes the directory.
    """
    logs = None if directory is None else directory / GAMES_DIR
    finished = ranks.agree(partial(_finished_games, entrants, games, logs, removes_foreign_logs))
    episodes: dict[str, list[Episode]] = {}
    bank_scores = {}
    for entrant in entrants:
        with _log_of(entrant, games, logs if ranks.is_main else None) as log:
            if played := play_match(entrant, games, log, finished[entrant.name], ranks):
                episodes[entrant.name] = played
        if bank and entrant.on_bank:
            bank_scores[entrant.name] = score_bank(ranks.spread(entrant.load()), bank)
    for name, (identity, by_human) in human_games.items():
        episodes[name] = ranks.agree(partial(_with_logged, name, identity, by_human, games, logs))
    measured = [(entrant.name, entrant.base) for entrant in entrants if entrant.base is not None]
    gained = {name: gain_over(episodes[base], episodes[name]) for name, base in measured}
    results: Results = {
        "players": {name: summarize(played) for name, played in episodes.items()},
        "gain_over_base": {name: gain for name, gain in gained.items() if gain is not None},
        "state_bank": bank_scores,
    }
    return results, episodes


def _log_of(entrant: Entrant, games: Games, logs: Path | None) -> AbstractContextManager[GameLog | None]:
    if logs is None:
        return nullcontext()
    return open_log(logs, games, entrant.name, entrant.kind, entrant.identity)


def _finished_games(
    entrants: Sequence[Entrant], games: Games, logs: Path | None, removes_foreign_logs: bool
) -> dict[str, dict[int, Episode]]:
    """Return the games that each entrant's log holds, by seed."""
    finished: dict[str, dict[int, Episode]] = {}
    for entrant in entrants:
        try:
            with _log_of(entrant, games, logs) as log:
                finished[entrant.name] = {} if log is None else log.finished
        except InputError:
            if logs is None or not removes_foreign_logs:
                raise
            log_path(logs, entrant.name).unlink()
            finished[entrant.name] = {}
    return finished


def _with_logged(
    name: str, identity: str, by_human: Sequence[Episode], games: Games, logs: Path | None
) -> list[Episode]:
    """Return a human's games with those that the log holds already; where there are logs, the log then holds all."""
    if logs is None:
        return list(by_human)
    with open_log(logs, games, name, "human", identity) as log:
        for episode in by_human:
            if episode.seed not in log.finished:
                log.append(episode)
        return list(log.finished.values())
