"""The numbers of real games, computed again from replays."""

from __future__ import annotations

from itertools import pairwise

import pytest

from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import replay
from snake_dist.evaluation.judging.intervals import paired_gain, quantile
from snake_dist.evaluation.judging.metrics import gain_over, summarize
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.board import MODES
from snake_dist.heuristics.policies import POLICIES
from snake_dist.heuristics.search import apple_distance


@pytest.fixture(scope="module", params=MODES)
def games(request):
    return play_games(HeuristicPlayer(POLICIES["bfs-safe"]), Games(5, request.param, range(30), 0))


def test_apples_are_walked_to_as_the_replay_says(games):
    walks = []
    for game in games:
        states = list(replay(game.grid_size, game.mode, game.seed, game.moves))
        shown = states[0]
        for before, after in pairwise(states):
            if after.score > before.score:
                walks.append((len(before.body), after.steps - shown.steps, apple_distance(shown, shown.head)))
                shown = after
        assert game.eaten_at == tuple(b.steps for a, b in pairwise(states) if b.score > a.score)
    summary = summarize(games)
    assert summary["path_efficiency"] == sum(w[2] for w in walks) / sum(w[1] for w in walks) < 1
    short = [steps for length, steps, _ in walks if length <= 5]
    assert summary["steps_per_apple_by_length"]["1-5"] == pytest.approx(sum(short) / len(short))
    assert summary["steps_per_apple_by_length"]["81+"] is None


def test_shares_of_boards_and_ends(games):
    summary = summarize(games)
    assert sum(summary["end_shares"].values()) == pytest.approx(1)
    assert summary["fill_rate"]["value"] == summary["end_shares"]["board_full"]
    last = [list(replay(game.grid_size, game.mode, game.seed, game.moves))[-1] for game in games]
    covered = [len(state.body) / (25 - len(state.obstacles)) for state in last]
    assert summary["coverage"]["mean"] == pytest.approx(sum(covered) / len(covered))
    assert summary["tokens_per_move"] is None
    assert summary["claims_true_rate"]["n"] == 0


def test_gain_is_paired_by_seed_and_has_a_probability():
    worse = play_games(HeuristicPlayer(POLICIES["random-legal"]), Games(6, "classic", range(5, 25), 40))
    better = play_games(HeuristicPlayer(POLICIES["greedy"]), Games(6, "classic", range(20), 40))
    gain = gain_over(worse, better)
    assert gain["n"] == 15
    by_seed = {game.seed: game.score for game in worse}
    assert gain["mean"] == pytest.approx(sum(g.score - by_seed[g.seed] for g in better[5:]) / 15)
    assert gain["ci95"][0] > 0
    assert gain["probability"] > 0.99
    assert paired_gain([1, 2, 3], [1, 2, 3])["probability"] == 0.5
    assert paired_gain([1], [0])["probability"] is None
    uncertain = paired_gain([3, 1, 2, 0], [1, 2, 1, 1])
    assert 0.5 < uncertain["probability"] < 0.9


def test_p5_is_a_result_that_was_seen():
    assert quantile(range(1, 101), 0.05) == 5
    assert quantile([7], 0.05) == 7
    assert quantile(range(19), 0.05) == 0
