"""Games that humans played elsewhere, read from their logs and replayed by the rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Episode, Games
from snake_dist.evaluation.judging.game_log import read_log


def read_human_games(paths: Sequence[Path], games: Games) -> dict[str, tuple[str, list[Episode]]]:
    """Return {player name: (identity, games)} from logs of humans; each way to play is one player.

    Of several games on one seed the first counts: a human who plays a seed again knows its apples. Raises InputError
    for a log that is not a human's, that the rules do not bear out, or that has other conditions than `games`.
    """
    players: dict[str, tuple[str, dict[int, Episode]]] = {}
    conditions = games.settings()
    for path in paths:
        for number, (header, episode) in enumerate(read_log(path, check=True), start=1):
            if header.kind != "human":
                raise InputError(f"--human-log {path}:{number}: played by {header.player}, not by a human")
            for name in ("grid_size", "mode", "max_steps", "symmetry"):
                if getattr(header, name) != conditions[name]:
                    raise InputError(
                        f"--human-log {path}:{number}: {name} {getattr(header, name)}, "
                        f"but the other players have {conditions[name]}"
                    )
            if episode.seed not in games.seeds:
                raise InputError(f"--human-log {path}:{number}: seed {episode.seed} is not among the games compared")
            _, by_seed = players.setdefault(f"human: {header.identity}", (header.identity, {}))
            by_seed.setdefault(episode.seed, episode)
    return {name: (identity, list(by_seed.values())) for name, (identity, by_seed) in players.items()}
