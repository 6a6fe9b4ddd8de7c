"""The games of a heuristic, one after another, and the training lines of their moves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

from snake_dist.game.board import End, Move, State
from snake_dist.game.rules import end_game, legal_moves, new_game, random_below, step
from snake_dist.game.symmetry import NUM_SYMMETRIES, transform_move, transform_state
from snake_dist.heuristics.policies import POLICIES
from snake_dist.heuristics.search import begins_shortest_path, declines_apple, is_apple_blocked
from snake_dist.styles.catalog import render_completion, render_prompt
from snake_dist.styles.replies import parse_moves

if TYPE_CHECKING:
    from snake_dist.data.generation_config import GenerationConfig

LOST = (End.WALL, End.SELF, End.REVERSAL, End.TRAPPED, End.STARVED)
"""Ends that `only_survived` drops: the other games filled their board or were stopped alive."""


@dataclass(frozen=True)
class Outcome:
    """One game for the summary. `dropped` counts moves by the filter that dropped them."""

    score: int
    end: End
    num_moves: int
    dropped: Counter[str]


def play_chunk(config: GenerationConfig, directory: Path, games: range) -> list[Outcome]:
    """Play the games with these indices and write their lines to `part_path`."""
    with part_path(directory, games).open("wb") as part:
        return [_play_game(config, directory, part, index) for index in games]


def part_path(directory: Path, games: range) -> Path:
    return directory / f"part-{games.start}"


def _play_game(config: GenerationConfig, directory: Path, part: BinaryIO, index: int) -> Outcome:
    """Play game `index`, append its lines to `part`, write its `game_N.json` (N = index + 1)."""
    seed, start_of_game = config.seed + index, part.tell()
    state = new_game(config.grid_size, seed, config.mode)
    # Two generators, so that the game is the same whichever lines are kept.
    move_rng, line_rng = generator("moves", seed), generator("lines", seed)
    moves, apples, dropped = [], [], Counter[str]()
    sample = Sample[tuple[State, Move]](config.max_lines_per_length, generator("sample", seed))
    replied: tuple[Move, ...] = ()  # moves of the teacher's last reply that are still to be made
    while state.end is None:
        taught = POLICIES[config.policy](state)
        is_asked = not replied
        if is_asked and config.only_asked:
            replied = parse_moves(render_completion(state, taught, config.style, config.policy)) or ()
        drawn, line_rng = is_drawn(config.line_rate, line_rng)
        if reason := "line_rate" if not drawn else "only_asked" if not is_asked else _unwanted(config, state, taught):
            dropped[reason] += 1
        elif config.max_lines_per_length:
            sample.add(len(state.body), state.steps, (state, taught))
        else:
            part.writelines(_lines(config, state, taught, index))
        move_rng, played = _played_move(state, taught, config.random_move_rate, move_rng)
        moves.append(played.value)
        apples.append(state.apple)
        score, state = state.score, step(state, played)
        replied = replied[1:] if replied[:1] == (played,) and state.score == score else ()
        if state.end is None and state.steps == config.max_steps_per_game:
            state = end_game(state, End.STEP_CAP)
    dropped["max_lines_per_length"] += sample.num_left_out
    for shown, taught in sample.drawn():
        part.writelines(_lines(config, shown, taught, index))
    unwanted = "min_score" if state.score < config.min_score else "only_survived"
    if unwanted == "min_score" or (config.only_survived and state.end in LOST):
        part.seek(start_of_game)
        part.truncate()
        dropped = Counter({unwanted: len(moves)})
    game = {"game_id": index + 1, "seed": seed, "mode": config.mode, "grid_size": config.grid_size}
    game |= {"policy": config.policy, "score": state.score, "steps": state.steps, "end": state.end.value}
    write_json(directory / f"game_{index + 1}.json", game | {"moves": moves, "apples": apples})
    return Outcome(state.score, state.end, len(moves), dropped)


def _unwanted(config: GenerationConfig, state: State, taught: Move) -> str | None:
    """Return the filter that drops this position, if any."""
    if len(state.body) < config.min_snake_length:
        return "min_snake_length"
    if config.max_snake_length and len(state.body) > config.max_snake_length:
        return "max_snake_length"
    if config.only_shortest_path and not begins_shortest_path(state, taught):
        return "only_shortest_path"
    if config.only_declined_apple and not declines_apple(state, taught):
        return "only_declined_apple"
    return "only_blocked_apple" if config.only_blocked_apple and not is_apple_blocked(state) else None


Position = TypeVar("Position")


class Sample(Generic[Position]):
    """`size` positions of a game for each snake length, uniformly drawn (algorithm R: Vitter, TOMS 11(1), 1985)."""

    def __init__(self, size: int, rng: int) -> None:
        self.num_left_out = 0
        self._size, self._rng = size, rng
        self._seen: Counter[int] = Counter()
        self._drawn: dict[int, list[tuple[int, Position]]] = {}

    def add(self, length: int, step: int, position: Position) -> None:
        """Take the next position in the order of play."""
        self._seen[length] += 1
        drawn = self._drawn.setdefault(length, [])
        if len(drawn) < self._size:
            drawn.append((step, position))
            return
        self.num_left_out += 1
        self._rng, place = random_below(self._rng, self._seen[length])
        if place < self._size:
            drawn[place] = (step, position)

    def drawn(self) -> Iterator[Position]:
        """Return the drawn positions in the order of play."""
        in_order = sorted((each for drawn in self._drawn.values() for each in drawn), key=lambda each: each[0])
        return (position for _, position in in_order)


def generator(purpose: str, seed: int) -> int:
    """Return the state of a random generator for this purpose alone: the apples' generator stays untouched."""
    return int.from_bytes(hashlib.sha256(f"random {purpose} of game {seed}".encode()).digest()[:8], "big")


def _played_move(state: State, taught: Move, random_move_rate: float, rng: int) -> tuple[int, Move]:
    """Return (next generator state, the taught move or, at the given rate, a uniformly drawn legal one)."""
    is_random, rng = is_drawn(random_move_rate, rng)
    if not is_random:
        return rng, taught
    moves = legal_moves(state)
    rng, drawn = random_below(rng, len(moves))
    return rng, moves[drawn]


def is_drawn(rate: float, rng: int) -> tuple[bool, int]:
    """Return (true with probability `rate`, next generator state); rates 0 and 1 draw nothing."""
    if rate in (0, 1):
        return rate == 1, rng
    rng, draw = random_below(rng, 1 << 53)
    return draw < rate * (1 << 53), rng


def _lines(config: GenerationConfig, state: State, taught: Move, index: int) -> Iterator[bytes]:
    """Yield the JSONL lines of one move: one, or one for each symmetry, written from the transformed state."""
    for symmetry in range(NUM_SYMMETRIES if config.augment_symmetries else 1):
        shown, move = transform_state(state, symmetry), transform_move(taught, symmetry)
        line = {
            "prompt": render_prompt(shown, config.style),
            "completion": render_completion(shown, move, config.style, config.policy),
            "game_id": index + 1,
            "step": state.steps,
            "grid_size": config.grid_size,
            "mode": config.mode,
            "policy": config.policy,
            "style": config.style,
            "seed": config.seed + index,
            "snake_length": len(state.body),
        }
        if config.augment_symmetries:
            line["symmetry"] = symmetry
        yield json.dumps(line).encode() + b"\n"


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value) + "\n")
