from __future__ import annotations

from collections import Counter

import pytest

from snake_dist.evaluation.judging.state_bank import build_bank, score_bank
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.board import MODES, Move
from snake_dist.game.rules import legal_moves
from snake_dist.game.symmetry import NUM_SYMMETRIES, transform_state
from snake_dist.heuristics.policies import POLICIES
from snake_dist.heuristics.search import safe_first_moves, tail_distances
from snake_dist.styles.catalog import render_prompt

SIZE = 64


@pytest.fixture(scope="module")
def bank():
    return build_bank(6, "classic", SIZE)


class Mute:
    def replies(self, states):
        return ["I would rather not say."] * len(states)


def images(state):
    return {render_prompt(transform_state(state, k), "compact") for k in range(NUM_SYMMETRIES)}


@pytest.mark.parametrize("mode", MODES)
def test_states_are_running_positions_and_always_the_same(mode):
    bank = build_bank(5, mode, 24)
    assert len(bank) == 24
    assert bank == build_bank(5, mode, 24)
    assert bank[:10] == build_bank(5, mode, 10)
    assert all(state.end is None and legal_moves(state) and state.mode == mode for state in bank)
    assert bank != build_bank(5, mode, 24, "dev")


def test_lengths_are_spread_evenly(bank):
    quarters = Counter(4 * (len(state.body) - 1) // 34 for state in bank)
    assert all(quarters[quarter] >= SIZE / 8 for quarter in range(4))


def test_some_states_lie_off_the_teachers_path(bank):
    """Where bfs-safe has always moved, some move keeps the tail in reach; a random move can take that away."""
    assert any(not tail_distances(state) for state in bank)


def test_no_state_is_an_image_of_another(bank):
    for i, state in enumerate(bank):
        assert images(state).isdisjoint(render_prompt(other, "compact") for other in bank[:i])


@pytest.mark.parametrize("symmetry", [0, 3, 6])
def test_trained_states_are_left_out_in_every_orientation(bank, symmetry):
    trained = {render_prompt(transform_state(state, symmetry), "compact") for state in bank[::2]}
    unseen = build_bank(6, "classic", SIZE, is_trained=lambda s: render_prompt(s, "compact") in trained)
    assert len(unseen) == SIZE
    assert all(images(state).isdisjoint(trained) for state in unseen)
    assert set(bank[1::2]) & set(unseen)  # the others stay


def test_a_bank_holds_no_more_than_there_is():
    assert build_bank(4, "classic", 4, is_trained=lambda _: True) == []


def test_scores_of_known_players(bank):
    safe = score_bank(HeuristicPlayer(POLICIES["bfs-safe"]), bank)
    assert [safe[name]["value"] for name in ("optimal_set_rate", "optimal_choice_rate", "legal_move_rate")] == [1] * 3
    random = score_bank(HeuristicPlayer(POLICIES["random-legal"]), bank)
    assert random["legal_move_rate"]["value"] == random["format_valid_rate"]["value"] == 1
    assert random["optimal_choice_rate"]["value"] < random["optimal_set_rate"]["value"] < 1
    assert random["optimal_choice_rate"]["ci95"][1] < safe["optimal_choice_rate"]["ci95"][0]
    mute = score_bank(Mute(), bank)
    assert {mute[name]["value"] for name in mute if name.endswith("_rate") and mute[name]["n"]} == {0}
    assert mute["claims_true_rate"]["n"] == 0


def test_forks_between_food_and_tail():
    bank = build_bank(6, "classic", 160)
    scores = {name: score_bank(HeuristicPlayer(POLICIES[name]), bank) for name in ("bfs", "bfs-safe", "random-legal")}
    assert {rates["tail_safe_fork_rate"]["n"] for rates in scores.values()} == {forks(bank)}
    assert scores["bfs-safe"]["tail_safe_fork_rate"]["value"] == 1
    assert scores["bfs-safe"]["food_over_survival_rate"]["value"] == 0
    assert 0 < scores["bfs"]["tail_safe_fork_rate"]["value"] < 1
    assert scores["bfs"]["food_over_survival_rate"]["value"] > 0
    assert all(rates["avoidable_fatal_rate"]["value"] == 0 for rates in scores.values())


def forks(bank):
    safe = [{*tail_distances(state), *safe_first_moves(state)} for state in bank]
    return sum(0 < len(moves) < len(legal_moves(state)) for moves, state in zip(safe, bank, strict=True))


class Reckless:
    """Always UP, with one true and one false claim."""

    def replies(self, states):
        return [f"Moving UP from {list(state.head)}. Free cells: 999. Move: UP" for state in states]


def test_fatal_moves_and_false_claims_are_counted(bank):
    scores = score_bank(Reckless(), bank)
    num_fatal = sum(Move.UP not in legal_moves(state) for state in bank)
    assert scores["avoidable_fatal_rate"]["value"] == num_fatal / SIZE > 0
    assert scores["legal_move_rate"]["value"] == 1 - num_fatal / SIZE
    assert (scores["claims_true_rate"]["value"], scores["claims_true_rate"]["n"]) == (0.5, 2 * SIZE)


def test_buckets_of_fill_hold_every_state_once(bank):
    scores = score_bank(HeuristicPlayer(POLICIES["greedy"]), bank)
    assert sum(bucket["n"] for bucket in scores["by_fill"].values()) == scores["n"] == SIZE
    low = scores["by_fill"]["0-10"]
    assert low["n"] == sum(len(state.body) <= 3 for state in bank)
