"""Play games with heuristics, base models, adapters beside their base, or humans, and report them."""

from __future__ import annotations

from functools import partial

from snake_dist.cli import parse_dataclass
from snake_dist.cluster.watchdog import Watchdog
from snake_dist.cluster.world import agree, gather, start_process_group, world_from_environment
from snake_dist.evaluation.judging.spread import Ranks
from snake_dist.evaluation.play import Play, play

RANK_TIMEOUT_S = 600.0
"""A rank without a sign of life for so long ends the games."""


def main(argv: list[str]) -> None:
    config, world = parse_dataclass(Play, argv), world_from_environment()
    if world.size == 1:
        play(config)
        return
    start_process_group(world)
    watchdog = Watchdog(world, RANK_TIMEOUT_S)
    with watchdog.explaining():
        play(config, Ranks(world.rank, world.size, partial(gather, world=world), partial(agree, world)))
    watchdog.leave()
