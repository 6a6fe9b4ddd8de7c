"""Cycles are cycles, and a snake that follows one fills the board, on odd boards too."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snake_dist.game.board import End, Move, State
from snake_dist.game.rules import SEED_RANGES, new_game, step
from snake_dist.heuristics.hamiltonian import cycle_slots, hamiltonian_move, shortcut_move
from snake_dist.heuristics.policies import POLICIES, bfs_safe
from tests.support.positions import positions


@pytest.mark.parametrize("mode", ["classic", "wrap"])
def test_slots_form_a_closed_walk_over_every_cell(mode: str) -> None:
    for n in range(4, 51):
        slots, count = cycle_slots(n, mode)
        near_cycle = n % 2 == 1 and mode == "classic"
        assert count == n * n - near_cycle
        assert set(slots) == {(x, y) for x in range(n) for y in range(n)}
        assert set(slots.values()) == set(range(count))
        neighbors = State(n, mode, (), None, frozenset(), rng=0).neighbors
        for cell, slot in slots.items():
            ahead = [there for _, there in neighbors[cell] if slots[there] == (slot + 1) % count]
            beside = (
                [there for there in slots if slots[there] == (slot + 1) % count] if near_cycle and n < 10 else ahead
            )
            assert ahead
            assert set(ahead) == set(beside)


def test_no_cycle_is_claimed_on_a_board_with_obstacles() -> None:
    state = new_game(6, 0, "obstacles")
    assert cycle_slots(6, "obstacles") == ({}, 0)
    assert hamiltonian_move(state) is shortcut_move(state) is None
    assert POLICIES["hamiltonian"](state) is POLICIES["hamiltonian-shortcuts"](state) is bfs_safe(state)


@pytest.mark.parametrize("policy", ["hamiltonian", "hamiltonian-shortcuts"])
@settings(max_examples=20)
@given(grid_size=st.integers(4, 8), seed=st.integers(0, 2**63), mode=st.sampled_from(["classic", "wrap"]))
def test_never_dies_before_the_board_is_full(policy: str, grid_size: int, seed: int, mode: str) -> None:
    state = new_game(grid_size, seed, mode)
    move_of = {"hamiltonian": hamiltonian_move, "hamiltonian-shortcuts": shortcut_move}[policy]
    while state.end is None:
        move = move_of(state)
        assert move is not None
        state = step(state, move)
    assert (state.end, state.score) == (End.BOARD_FULL, grid_size**2 - 1)


@pytest.mark.parametrize("policy", ["hamiltonian", "hamiltonian-shortcuts"])
def test_small_odd_boards_are_always_filled(policy: str) -> None:
    for seed in SEED_RANGES["dev"][:60]:
        state = new_game(5, seed)
        while state.end is None:
            state = step(state, POLICIES[policy](state))
        assert state.end is End.BOARD_FULL


@pytest.mark.parametrize("policy", ["hamiltonian", "hamiltonian-shortcuts"])
def test_an_apple_beside_the_tail_in_the_shared_slot_is_left_for_a_round(policy: str) -> None:
    body = ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 2), (2, 1), (2, 0), (1, 0), (1, 1))
    state = State(5, "classic", body, (0, 0), frozenset(), rng=1, score=9)
    assert step(state, Move.DOWN).end is End.TRAPPED
    assert POLICIES[policy](state) is Move.RIGHT
    while state.end is None:
        state = step(state, POLICIES[policy](state))
    assert state.end is End.BOARD_FULL


def test_a_snake_across_the_cycle_is_left_to_bfs_safe() -> None:
    across = 0
    for state in positions():
        if state.mode != "obstacles" and hamiltonian_move(state) is None:
            across += 1
            assert POLICIES["hamiltonian"](state) is POLICIES["hamiltonian-shortcuts"](state) is bfs_safe(state)
    assert across > 50
