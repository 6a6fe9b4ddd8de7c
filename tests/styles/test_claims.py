from __future__ import annotations

import pytest

from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import STYLES, check_claims, render_completion
from snake_dist.styles.replies import parse_reply

POLICY = {name: style.teacher for name, style in STYLES.items()}


def positions(mode, policy="bfs-safe"):
    """(state, move) along a game."""
    state, found = new_game(4 if policy == "optimal" else 6, 3, mode), []
    while state.end is None and state.steps < 150:
        move = POLICIES[policy](state)
        found.append((state, move))
        state = step(state, move)
    return found[::3]


@pytest.mark.parametrize("style", [style for style in STYLES if style != "move"])
def test_a_completion_of_another_position_is_true_only_where_the_two_say_the_same(style):
    """The claims checked on a wrong board are the true ones of that board wherever the texts agree."""
    found = positions("classic", POLICY[style])
    num_false = 0
    for (state, _), (other, move) in zip(found, found[5:], strict=False):
        told = render_completion(other, move, style, POLICY[style])
        claims = check_claims(state, told)
        num_false += sum(not claim.true for claim in claims)
        own = [told[claim.start : claim.end] for claim in check_claims(other, told)]
        assert own == [told[claim.start : claim.end] for claim in claims]
    assert num_false > len(found)


FALSE = [
    ("ok U D L R", "ok U D L R"),
    ("apple 99 L 99 U", "99 L"),
    ("apple 09 L 09 D", "09 D"),
    ("from [0, 0]", "from [0, 0]"),
    ("Manhattan distance to apple: 99", "Manhattan distance to apple: 99"),
    ("Free space: UP=44", "UP=44"),
    ("BFS: No path to apple", "No path to apple"),
    ("ok U. Moves: L99", " L99"),
    ("at 99 apple 3 tail 4 reach 3. Moves: U9", "at 99"),
    ("at 1 apple 99 099 tail 4.", "apple 99 099"),
    ("at 1 apple 3 103 tail 004 104 reach 3. Moves: U9", "tail 004 104"),
    ("at 1 follow. Moves: U999", " U999"),
    ("at 1 reach 9. U999 so U999. Moves: U", "so U999"),
    ("free 00 99 so 99 U. Moves: U", "00 99"),
    ("free 00 99 so 99 U. Moves: U", "so 99 U"),
    ("free 00 99 so 99 U. Moves: R", "Moves: R"),
    ("free 00 so 00 U", "so 00 U"),
    ("ok U. at 99 apple 3 tail 4 reach 3. Moves: U9", "at 99"),
    ("ok U D L R. at 1 follow. Moves: U9", "ok U D L R"),
    ("back 99U98U. Moves: U99", "99U"),
    ("back 99U98U. Moves: U99", "98U"),
    ("back 99U98. Moves: U99", "98"),
    ("ok U. roads to 99. U99. Moves: U", "99"),
    ("ok U. roads to 00. U99. Moves: U", "U99"),
    ("ok U. roads to 00. U01 9 R10 3 so R10. Moves: R", "U01 9 R10 3 so R10"),
]


@pytest.mark.parametrize(("text", "claim"), FALSE)
def test_false_claims_are_marked_where_they_stand(text, claim):
    state = next(state for state, _ in positions("classic") if len(state.body) > 3 and state.head != (0, 0))
    reply = text if "Moves: " in text else f"{text}. Move: UP"
    false = [reply[found.start : found.end] for found in check_claims(state, reply) if not found.true]
    assert claim in false


def test_claims_about_a_cycle_are_false_where_there_is_none():
    claims = check_claims(new_game(6, 1, "obstacles"), "at 1 apple 3 tail 4 follow. Moves: U5")
    assert [claim.true for claim in claims] == [False] * 5


def test_a_reply_without_our_claims_makes_none():
    state = new_game(10, 1)
    for reply in ("UP", "Move: UP", "", "I like apples. LEFT is good. Up 3 and Right 4.", '{"move": "UP"}'):
        assert check_claims(state, reply) == ()
    assert parse_reply("Move: UP") is not None
