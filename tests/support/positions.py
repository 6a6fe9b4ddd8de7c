"""Positions of many shapes for the tests of this room: played half soundly, half at random, in every mode."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from snake_dist.game.board import MODES, State
from snake_dist.game.rules import SEED_RANGES, legal_moves, new_game, random_below, step
from snake_dist.heuristics.policies import bfs_safe


@lru_cache(maxsize=1)
def positions() -> tuple[State, ...]:
    """About 600 running positions on boards of 4 to 7."""
    return tuple(state for seed in range(48) for state in _game(4 + seed % 4, MODES[seed // 4 % 3], seed))


def _game(grid_size: int, mode: str, seed: int) -> Iterator[State]:
    state, rng = new_game(grid_size, SEED_RANGES["dev"][seed], mode), seed
    while state.end is None:
        if state.steps % 11 == seed % 11 or state.steps_since_apple > 60:
            yield state
        rng, draw = random_below(rng, 1000)
        moves = legal_moves(state)
        state = step(state, moves[draw % len(moves)] if draw < 50 else bfs_safe(state))
