"""The games of one entrant; the flags of the games that judge a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tqdm import tqdm

from snake_dist.errors import check_at_least
from snake_dist.evaluation.judging.episodes import Episode, Games, game_seeds, play_games
from snake_dist.evaluation.judging.game_log import GameLog
from snake_dist.evaluation.judging.spread import Ranks
from snake_dist.evaluation.players.entrants import Entrant
from snake_dist.game.board import ModeOrAuto
from snake_dist.styles.catalog import StyleOrAuto


@dataclass(frozen=True)
class PlayConfig:
    """The games that judge the model, in training and at the end."""

    play_games: int = 20
    """Base and adapter each play this many held-out games at the end; 0: none."""
    play_max_steps: int = 25
    """Stop a game after this many moves and count it as step_cap; 0: no limit."""
    eval_games: int = 4
    """An evaluation during training plays this many games, on development seeds; 0: none."""
    play_every: int = 500
    """Steps between evaluations (--eval-every) that play --eval-games; 0: every evaluation plays."""
    grid_size: int | None = None
    """N of the N x N board; default: that of the training data, 10 for generated data."""
    mode: ModeOrAuto = "auto"
    """Rules of the board; auto: those of the training data, classic for generated data."""
    style: StyleOrAuto = "auto"
    """Style of the prompts; auto: that of the training data, compact for generated data."""


def check_play_config(config: PlayConfig) -> None:
    """Raise InputError unless such games can be played."""
    check_at_least(config, play_games=0, play_max_steps=0, eval_games=0, play_every=0)
    game_seeds(config.play_games)
    game_seeds(config.eval_games, "dev")


def play_match(
    entrant: Entrant, games: Games, log: GameLog | None, finished: Mapping[int, Episode], ranks: Ranks
) -> list[Episode]:
    """Return the entrant's games; those in `finished`, by seed, are not played again.

    The entrant is loaded only if a game is left to play. A human may stop early: then the games that the log holds are
    returned. All `ranks` call it and get the same; `log` is rank 0's. A bar on rank 0's terminal shows the progress.
    """
    missing = [seed for seed in games.seeds if seed not in finished]
    if not missing:
        return [finished[seed] for seed in games.seeds]
    is_human = entrant.kind == "human"
    # miniters 0: the moves are shown also while no game ends.
    with tqdm(
        total=len(games.seeds), desc=entrant.name, unit="game", miniters=0, disable=is_human or not ranks.is_main
    ) as bar:

        def show(num_finished: int, num_moves: int) -> None:
            bar.set_postfix_str(f"{num_moves} moves", refresh=False)
            bar.update(len(games.seeds) - len(missing) + num_finished - bar.n)

        def on_finished(episode: Episode) -> None:
            """Rank 0 writes the game; that it cannot is every rank's error."""
            ranks.agree(lambda: log.append(episode) if log is not None else None)

        try:
            played = play_games(
                ranks.spread(entrant.load()),
                replace(games, seeds=missing),
                entrant.batch_size,
                on_progress=show,
                on_finished=on_finished,
            )
        except KeyboardInterrupt:
            if not is_human or log is None:
                raise
            return list(log.finished.values())
    by_seed = {**finished, **{episode.seed: episode for episode in played}}
    return [by_seed[seed] for seed in games.seeds]
