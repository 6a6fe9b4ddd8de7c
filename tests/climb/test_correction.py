"""Corrections are the teacher's answers at the positions a player came to, chosen as the flags say."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from snake_dist.climb.correction import Correction, correct
from snake_dist.data.records import read_records
from snake_dist.data.sources import resolve_paths
from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, game_seeds, play_games
from snake_dist.evaluation.judging.game_log import open_log, read_log, replay
from snake_dist.game.board import State, destination
from snake_dist.game.rules import legal_moves
from snake_dist.heuristics.hamiltonian import view_cycle
from snake_dist.heuristics.policies import POLICIES, bfs_safe
from snake_dist.styles.catalog import render_completion, render_prompt
from snake_dist.styles.replies import parse_moves

FALSE = {"at": "at 99", "ok": "ok."}
"""No slot of a 6 x 6 board; no legal move."""


class Pupil:
    """Says what the teacher says, but for every seventh move, and dies at length 9. Off the cycle it plays on.

    Some replies say something false and decide as the teacher does."""

    def __init__(self, policy: str, style: str) -> None:
        self.policy, self.style = policy, style

    def replies(self, states: Sequence[State]) -> list[str]:
        return [self._reply(state) for state in states]

    def _reply(self, state: State) -> str:
        if len(state.body) >= 9:
            return "no idea"
        if self.style == "cycle" and view_cycle(state) is None:
            return f"Move: {bfs_safe(state).value}"
        taught = render_completion(state, POLICIES[self.policy](state), self.style, self.policy)
        moves = parse_moves(taught) or ()
        other = [move for move in legal_moves(state) if move is not moves[0]]
        if state.steps % 7 == 6 and other:
            return f"Move: {other[0].value}"
        return (
            re.sub(r"at \d+|ok[ UDLR]*\.", lambda told: FALSE[told[0][:2]], taught) if state.steps % 5 == 4 else taught
        )


def logged(directory: Path, policy: str, style: str, seed_range: str = "train", games: int = 6) -> Path:
    played = Games(6, "classic", game_seeds(games, seed_range, first=40), max_steps=0)
    with open_log(directory, played, "pupil", "model", "weights 1") as log:
        play_games(Pupil(policy, style), played, on_finished=log.append)
    return directory / "pupil.jsonl"


@pytest.mark.parametrize(("policy", "style"), [("bfs-safe", "compact"), ("hamiltonian-shortcuts", "cycle")])
def test_lines_teach_what_the_teacher_says_where_the_player_was(tmp_path: Path, policy: str, style: str) -> None:
    log = logged(tmp_path / "games", policy, style)
    config = Correction((log,), tmp_path / "data", policy=policy, style=style, agreement_rate=0, before_death=2)
    summary = correct(config)
    lines = [json.loads(line) for line in (tmp_path / "data/CORRECTIONS_dataset.jsonl").read_text().splitlines()]
    games = {episode.seed: episode for _, episode in read_log(log, check=True)}
    assert {game.end for game in games.values()} == {"invalid_reply"}
    for line in lines:
        game = games[line["seed"]]
        state = list(replay(6, "classic", game.seed, game.moves))[line["step"]]
        assert line["prompt"] == render_prompt(state, style)
        assert line["completion"] == render_completion(state, POLICIES[policy](state), style, policy)
        assert line["snake_length"] == len(state.body)
        # A disagreement is the seventh move or the last reply: the pupil says what the teacher says elsewhere.
        differs, lies = line["step"] % 7 == 6 or len(state.body) == 9, line["step"] % 5 == 4
        unforced = "before_death" if line["step"] in game.asked_after[-2:] else "declined_apple"
        assert line["reason"] == ("disagreement" if differs else "false_claim" if lies else unforced)
        if line["reason"] == "declined_apple":
            assert state.apple in dict(state.neighbors[state.head]).values()
            assert state.apple != destination(state, state.head, POLICIES[policy](state))
    reasons = Counter(line["reason"] for line in lines)
    assert reasons["disagreement"] >= len(games)
    assert reasons["false_claim"] >= len(games)
    assert 0 < reasons["before_death"] <= len(games)
    assert (reasons["declined_apple"] > 0) == (style == "cycle")  # bfs-safe takes each apple of these short snakes
    assert summary["lines"]["written"] == len(lines)
    assert summary["logs"][0]["players"] == ["weights 1"]
    assert summary["logs"][0]["games"] == 6
    assert [record.seed for record in read_records(resolve_paths([tmp_path / "data"]))] == [x["seed"] for x in lines]


def test_agreements_are_drawn_and_lengths_bounded(tmp_path: Path) -> None:
    log = logged(tmp_path / "games", "bfs-safe", "compact")
    base = Correction((log,), tmp_path / "all", agreement_rate=1)
    everything = correct(base)
    asked = sum(episode.num_replies for _, episode in read_log(log, check=True))
    assert everything["positions"]["asked"] == everything["lines"]["written"] == asked
    some = correct(replace(base, output=tmp_path / "some", agreement_rate=0.3))
    assert 0 < some["positions"]["drawn"] < 0.6 * everything["positions"]["drawn"]
    bounded = correct(replace(base, output=tmp_path / "bounded", max_lines_per_length=1))
    assert set(bounded["lines"]["by_snake_length"].values()) == {6}
    again = correct(replace(base, output=tmp_path / "again", agreement_rate=0.3))
    assert again["lines"] == some["lines"]


def test_what_must_not_be_trained_on_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    log = logged(tmp_path / "games", "bfs-safe", "compact", "test", games=1)
    config = Correction((log,), tmp_path / "data")
    for change, message in (
        ({}, "a game of seed 1100000040, which is not a training seed"),
        ({"style": "cycle"}, "--style cycle needs --policy hamiltonian-shortcuts: got bfs-safe"),
        ({"policy": "perfect"}, "'perfect': choose from"),
        ({"agreement_rate": 2}, "--agreement-rate 2: must be 0 to 1"),
        ({"before_death": -1}, "--before-death -1: at least 0"),
        ({"games": (tmp_path / "none",)}, "none: No such file"),
    ):
        with pytest.raises(InputError, match=message):
            correct(replace(config, **change))
    assert not (tmp_path / "data").exists()
