"""On-policy correction: a teacher labels the positions of a player's games (DAgger: Ross et al., AISTATS 2011).

A model that learned from a teacher's games alone has never seen the positions after its own mistakes. Correction
replays its logged games of training seeds, and may turn each position that the player was asked about into a line
with the teacher's answer: always if the two differ, if the player said something false, shortly before a death, or if
the teacher declines an apple beside the head; otherwise at a rate.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snake_dist.data.game_lines import Sample, generator, is_drawn, write_json
from snake_dist.data.generation import new_data_directory
from snake_dist.errors import InputError, check_at_least
from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.game_log import Header, read_log, replay
from snake_dist.files import SUMMARY, sha256_of
from snake_dist.game.board import End, State
from snake_dist.game.rules import SEED_RANGES
from snake_dist.heuristics.hamiltonian import view_cycle
from snake_dist.heuristics.policies import POLICIES, PolicyName, check_policy
from snake_dist.heuristics.search import declines_apple
from snake_dist.styles.catalog import STYLES, StyleName, check_style, check_teacher, render_completion, render_prompt
from snake_dist.styles.replies import parse_moves

DEATHS = (End.WALL.value, End.SELF.value, End.REVERSAL.value, End.TRAPPED.value, End.INVALID_REPLY.value)


@dataclass(frozen=True)
class Correction:
    """Label the positions of played games with a teacher's answers, as training data."""

    games: tuple[Path, ...]
    """Logs of games of training seeds: `games/NAME.jsonl` of a report that play.py --seed-range train wrote."""
    output: Path
    """Directory, new or empty."""
    policy: PolicyName = "bfs-safe"
    """Heuristic that is the teacher."""
    style: StyleName = "compact"
    """Style of prompt and completion: the one that the player was trained on."""
    agreement_rate: float = 0.2
    """Share, 0 to 1, of the positions without a fault that give a line, drawn at random."""
    before_death: int = 8
    """This many last replies before a death give lines, right or wrong."""
    max_lines_per_length: int = 0
    """Largest number of lines per game and snake length, drawn at random; 0 for no limit."""


@dataclass(frozen=True)
class _Position:
    """A position that gives a line."""

    state: State
    completion: str
    reason: str


def check_correction(config: Correction) -> None:
    """Raise InputError unless these flags can label games."""
    check_policy(config.policy)
    check_style(config.style)
    check_teacher(config.style, config.policy)
    if not 0 <= config.agreement_rate <= 1:
        raise InputError(f"--agreement-rate {config.agreement_rate}: must be 0 to 1")
    check_at_least(config, before_death=0, max_lines_per_length=0)


def correct(config: Correction) -> dict[str, Any]:
    """Write the data set, `CORRECTIONS_dataset.jsonl` with `summary.json` beside it, and return the summary.

    The directory appears complete or not at all. Raises InputError for bad flags, for unreadable logs, for games of
    seeds that are not for training, and if the games give no line.
    """
    check_correction(config)
    played = [(path, read_log(path, check=True)) for path in config.games]
    for path, games in played:
        for _, episode in games:
            if episode.seed not in SEED_RANGES["train"]:
                raise InputError(f"{path}: has a game of seed {episode.seed}, which is not a training seed")
    counts: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    with new_data_directory(config.output) as building:
        with (building / "CORRECTIONS_dataset.jsonl").open("wb") as dataset:
            for path, games in played:
                for header, episode in games:
                    for line in _lines(config, header, episode, counts):
                        lengths[line["snake_length"]] += 1
                        dataset.write(json.dumps(line | {"log": path.name}).encode() + b"\n")
            dataset.flush()
            os.fsync(dataset.fileno())
        num_lines = sum(lengths.values())
        if num_lines == 0:
            logs = ", ".join(map(str, config.games))
            raise InputError(
                f"--games {logs}: {sum(len(games) for _, games in played)} games give no line: {dict(counts)}"
            )
        summary = {
            "config": json.loads(json.dumps(asdict(config), default=str)),
            "logs": [_provenance(path, games) for path, games in played],
            "positions": dict(counts),
            "lines": {"written": num_lines, "by_snake_length": dict(sorted(lengths.items()))},
        }
        write_json(building / SUMMARY, summary)
    return summary


def _provenance(path: Path, games: Sequence[tuple[Header, Episode]]) -> dict[str, Any]:
    """Describe a log: its players and its games."""
    scores = [episode.score for _, episode in games]
    return {
        "path": str(path),
        "sha256": sha256_of(path),
        "players": sorted({header.identity for header, _ in games}),
        "games": len(games),
        "mean_score": sum(scores) / len(scores) if scores else None,
    }


def _lines(config: Correction, header: Header, episode: Episode, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    positions = _positions(config, episode, counts)
    if config.max_lines_per_length:
        sample = Sample[_Position](config.max_lines_per_length, generator("corrections", episode.seed))
        for position in positions:
            sample.add(len(position.state.body), position.state.steps, position)
        positions = sample.drawn()
        counts["max_lines_per_length"] += sample.num_left_out
    for position in positions:
        counts[position.reason] += 1
        yield {
            "prompt": render_prompt(position.state, config.style),
            "completion": position.completion,
            "game_id": f"{header.player} {episode.seed}",
            "step": position.state.steps,
            "grid_size": episode.grid_size,
            "mode": episode.mode,
            "policy": config.policy,
            "style": config.style,
            "seed": episode.seed,
            "snake_length": len(position.state.body),
            "reason": position.reason,
        }


def _positions(config: Correction, episode: Episode, counts: Counter[str]) -> Iterator[_Position]:
    """Yield the positions of one game that give lines, in the order of play."""
    states = list(replay(episode.grid_size, episode.mode, episode.seed, episode.moves))
    dangerous = episode.num_replies - (config.before_death if episode.end in DEATHS else 0)
    rng = generator("agreements", episode.seed)
    for i, num_moves in enumerate(episode.asked_after):
        state = states[num_moves]
        if state.end is not None or state.apple is None:
            continue
        counts["asked"] += 1
        if STYLES[config.style].on_cycle and view_cycle(state) is None:
            counts["off_cycle"] += 1
            continue
        completion = render_completion(state, POLICIES[config.policy](state), config.style, config.policy)
        made = episode.moves[num_moves : num_moves + episode.moves_made[i]]
        taught = parse_moves(completion) or ()
        drawn, rng = is_drawn(config.agreement_rate, rng)
        if not made or list(made) != [move.value for move in taught[: len(made)]]:
            yield _Position(state, completion, "disagreement")
        elif not all(claim.true for claim in episode.claims[i]):
            yield _Position(state, completion, "false_claim")
        elif i >= dangerous:
            yield _Position(state, completion, "before_death")
        elif declines_apple(state, taught[0]):
            yield _Position(state, completion, "declined_apple")
        elif drawn:
            yield _Position(state, completion, "drawn")
