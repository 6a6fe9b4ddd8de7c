"""Logs of humans who played elsewhere."""

from __future__ import annotations

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import GameLog, Header
from snake_dist.evaluation.judging.human_logs import read_human_games
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.rules import SEED_RANGES
from snake_dist.heuristics.policies import POLICIES

SEEDS = SEED_RANGES["test"][:2]
GAMES = Games(5, "classic", SEEDS, 0)


def log_of(path, kind="human", identity="browser, turn-based", policy="greedy", games=GAMES):
    with GameLog(path, Header("human", kind, identity, games.grid_size, games.mode, games.max_steps)) as log:
        play_games(HeuristicPlayer(POLICIES[policy]), games, on_finished=log.append)
    return path


def test_human_logs_are_read_by_way_of_playing_and_the_first_game_of_a_seed_counts(tmp_path):
    paths = [log_of(tmp_path / "a.jsonl"), log_of(tmp_path / "b.jsonl", policy="bfs-safe")]
    paths.append(log_of(tmp_path / "c.jsonl", identity="browser, 120 ms a move"))
    found = read_human_games(paths, GAMES)
    assert {name: len(games) for name, (_, games) in found.items()} == {
        "human: browser, turn-based": 2,
        "human: browser, 120 ms a move": 2,
    }
    greedy = play_games(HeuristicPlayer(POLICIES["greedy"]), GAMES)
    assert sorted(found["human: browser, turn-based"][1], key=lambda episode: episode.seed) == greedy


OTHERS = {
    "not by a human": {"kind": "model"},
    "grid_size 6": {"games": Games(6, "classic", SEEDS, 0)},
    "max_steps 3": {"games": Games(5, "classic", SEEDS, 3)},
    "seed 1000000000": {"games": Games(5, "classic", SEED_RANGES["dev"][:1], 0)},
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_logs_are_refused(tmp_path, message):
    path = log_of(tmp_path / "a.jsonl", **OTHERS[message])
    with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{message}"):
        read_human_games([path], GAMES)
