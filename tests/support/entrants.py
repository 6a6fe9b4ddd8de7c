"""Entrants of a comparison, from the words of --player."""

from __future__ import annotations

from typing import Any

from snake_dist.evaluation.players.entrants import Entrant, PlayerOptions, find_entrants


def find(*words: object, **options: Any) -> tuple[list[Entrant], tuple[int, str] | None]:
    """What `find_entrants` finds for the words."""
    return find_entrants([str(word) for word in words], PlayerOptions(**options))
