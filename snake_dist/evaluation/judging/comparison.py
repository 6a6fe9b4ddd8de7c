"""Play a comparison: every entrant on the same games and the same bank of positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.match import Games
from snake_dist.evaluation.judging.metrics import gains, summarize
from snake_dist.evaluation.judging.spread import Ranks
from snake_dist.evaluation.judging.state_bank import build_bank, score_bank
from snake_dist.evaluation.players.entrants import Entrant
from snake_dist.files import GAMES_DIR
from snake_dist.game.board import State

HumanGames = Mapping[str, tuple[str, Sequence[Episode]]]


def compare(
    entrants: Sequence[Entrant],
    games: Games,
    directory: Path | None,
    bank_states: int,
    human_games: HumanGames | None = None,
    is_trained: Callable[[State], bool] = lambda _: False,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> tuple[dict[str, Any], dict[str, list[Episode]]]:
    """What `report.write_report` takes, {"players": ..., "gain_over_base": ..., "state_bank": ...}, and all games.

    With a directory, games are logged in its `games/`, and those already there are not played again. An entrant is
    loaded when its turn comes, and not at all if there is nothing left for it to do. Humans may stop early, and
    are not asked about the bank; `human_games`, by player with identity, were played elsewhere. The bank leaves out
    what `is_trained` in any of its images. Raises InputError for logs of other games, before anything is loaded.

    All `ranks` call it and get the same; rank 0 alone reads and writes the directory.
    """
    bank = build_bank(games.grid_size, games.mode, bank_states, "test", is_trained) if bank_states else []
    logged = ranks.agree(partial(_finished, entrants, games, directory))
    episodes: dict[str, list[Episode]] = {}
    bank_scores = {}
    for entrant in entrants:
        if played := _play(entrant, games, directory, logged[entrant.name], ranks):
            episodes[entrant.name] = played
        if bank and entrant.kind != "human":
            bank_scores[entrant.name] = score_bank(ranks.spread(entrant.load()), bank)
    for name, (identity, by_human) in (human_games or {}).items():
        episodes[name] = ranks.agree(partial(_with_logged, name, identity, by_human, games, directory))
    gained: dict[str, Any] = {}
    for entrant in entrants:
        if entrant.base is not None:
            pair = {name: episodes[name] for name in (entrant.base, entrant.name)}
            gained |= gains(pair, entrant.base)
    results = {
        "players": {name: summarize(played) for name, played in episodes.items()},
        "gain_over_base": gained,
        "state_bank": bank_scores,
    }
    return results, episodes


def _finished(entrants: Sequence[Entrant], games: Games, directory: Path | None) -> dict[str, dict[int, Episode]]:
    """The games that each entrant's log holds, by seed."""
    found: dict[str, dict[int, Episode]] = {}
    for entrant in entrants:
        opened = directory and games.log(directory / GAMES_DIR, entrant.name, entrant.kind, entrant.identity)
        with opened or nullcontext() as log:
            found[entrant.name] = {} if log is None else log.finished
    return found


def _with_logged(
    name: str, identity: str, by_human: Sequence[Episode], games: Games, directory: Path | None
) -> list[Episode]:
    """A human's games with those that the log holds already; with a directory they are all in the log then."""
    if directory is None:
        return list(by_human)
    with games.log(directory / GAMES_DIR, name, "human", identity) as log:
        for episode in by_human:
            if episode.seed not in log.finished:
                log.append(episode)
        return list(log.finished.values())


def _play(
    entrant: Entrant, games: Games, directory: Path | None, finished: Mapping[int, Episode], ranks: Ranks
) -> list[Episode]:
    """The entrant's games; for a human who stopped, those that were finished and logged."""
    if all(seed in finished for seed in games.seeds):
        return [finished[seed] for seed in games.seeds]
    is_human = entrant.kind == "human"
    opened = None
    if directory is not None and ranks.is_main:
        opened = games.log(directory / GAMES_DIR, entrant.name, entrant.kind, entrant.identity)
    # miniters 0: the moves are shown also while no game ends.
    bar = tqdm(
        total=len(games.seeds), desc=entrant.name, unit="game", miniters=0, disable=is_human or not ranks.is_main
    )
    with opened or nullcontext() as log, bar:
        player = ranks.spread(entrant.load())
        try:
            return games.play(player, entrant.batch_size, on_progress=_shown_on(bar), log=log, finished=finished)
        except KeyboardInterrupt:
            if not is_human or log is None:
                raise
            return list(log.finished.values())


def _shown_on(bar: Any) -> Callable[[int, int], None]:
    def show(finished: int, moves: int) -> None:
        bar.set_postfix_str(f"{moves} moves", refresh=False)
        bar.update(finished - bar.n)

    return show
