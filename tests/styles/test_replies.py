"""Replies are read strictly: known dialects only, one decision only, nothing repaired."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snake_dist.game.board import Move
from snake_dist.styles.replies import parse_moves, parse_reply

ACCEPTED = {
    "UP": ["UP", " UP\n", "UP.", "UP. The apple is up there.", "Move: UP", "Move: UP.", "Conclusion: UP"],
    "DOWN": [
        "Conclusion: The move is: DOWN",
        "Moving DOWN from [4, 4]\n\nMetrics:\n- Valid moves: ['UP', 'DOWN']\n\nConclusion: The move is: DOWN",
        "BFS: Found path to apple (3 steps)\nMoving DOWN from [5, 5]\nDistance: 3\n\nConclusion: DOWN",
        "DOWN. UP is blocked by the body, LEFT is a wall.",
    ],
    "LEFT": [
        "Move: LEFT. Reasoning: The apple is to the left, and RIGHT would reverse.",
        "Move: LEFT. Reasoning: nearer. Conclusion: LEFT",
        '{"move": "LEFT"}',
        '{"reasoning": "UP and DOWN are walls", "move": "LEFT", "confidence": 0.5}',
        '{"algorithm": "BFS", "move": "LEFT", "reasoning": "Moving LEFT from here. Move: LEFT"}',
    ],
    "RIGHT": [
        "U37 D35 L26 R46 body. ok U D R. apple 39 R 66 -. Move: RIGHT",
        "Is it up? Move: RIGHT",
        "Move: RIGHT\nMove: RIGHT",
    ],
}


@pytest.mark.parametrize(("move", "reply"), [(move, reply) for move, replies in ACCEPTED.items() for reply in replies])
def test_known_dialects_are_read(move: str, reply: str) -> None:
    assert parse_reply(reply) is Move(move)


HOSTILE = [
    "",
    " ",
    "\n" * 50_000,
    "move",
    "Move:",
    "Move: ",
    "Conclusion:",
    "Conclusion: The move is:",
    # not a move, or more than a move
    "UPWARDS",
    "Move: UPWARDS",
    "Conclusion: UPS",
    "Move: UP!",
    "Move: UPDOWN",
    "Move: NORTH",
    "Move: up",
    "Up",
    "move: UP",
    "Move: U",
    "Move.UP",
    "Move: Move.UP",
    "<Move.UP: 'UP'>",
    "Move: <UP>",
    "<UP>",
    "Move: **UP**",
    "Move: 'UP'",
    "['UP']",
    "Move: ['UP']",
    "Move:UP",
    "Move: UP\u200b",
    "Move: \uff35\uff30",
    "Move: U\u0420",
    "Move: UP\x00",
    # enumerations and choices
    "UP, DOWN, LEFT, RIGHT",
    "UP DOWN",
    "UP\nDOWN",
    "UP. DOWN. LEFT. RIGHT.",
    "UP.\nDOWN.",
    "Move: UP, DOWN",
    "Move: UP/DOWN",
    "Move: UP or DOWN",
    "Move: UP|DOWN|LEFT|RIGHT",
    "Choose from: UP, DOWN, LEFT, RIGHT",
    "Choose next move (UP, DOWN, LEFT, RIGHT): UP",
    # two different decisions
    "Move: UP Move: DOWN",
    "Move: UP\nMove: DOWN",
    "Move: UP. Move: DOWN",
    "Conclusion: UP\nMove: DOWN",
    "Move: UP. Reasoning: none. Conclusion: DOWN",
    "UP. Move: DOWN",
    "UP. So, conclusion: DOWN",
    "Moving DOWN from [4, 4]\n\nConclusion: The move is: UP",
    "Next Move: DOWN. Move: UP",
    "Move: UPWARDS. Move: UP",
    "DOWN. I meant it. UP.",
    # the decision does not close or open the reply
    "Move: UP and then we see",
    "Conclusion: UP\n\nI hope this helps!",
    "Conclusion: UP\n\nYou are playing Snake on a 10x10 grid.",
    "I think Move: UP",
    "Do not play Move: UP",
    "Conclusion: not UP",
    "The answer is UP",
    "Move: UP. Because I say so",
    "apple R6 - Move: UP",
    # JSON that is none, or decides nothing, or twice
    "{",
    "{}",
    '{"move": "UP"',
    '{"move": "UP"} DOWN',
    '{"move": "UP"}\n{"move": "DOWN"}',
    '{"move": "up"}',
    '{"move": " UP"}',
    '{"move": "UPWARDS"}',
    '{"move": ["UP"]}',
    '{"move": {"move": "UP"}}',
    '{"move": null}',
    '{"move": 1}',
    '{"answer": {"move": "UP"}}',
    '{"move": "UP", "move": "DOWN"}',
    '{"move": "UP", "move": "UP"}',
    '{"move": "UP", "Move": "DOWN"}',
    '{"Move": "UP"}',
    '{"move": "UP", "reasoning": "Conclusion: DOWN"}',
    '[{"move": "UP"}]',
    '"UP"',
    '{"move": "UP", "x": ' + "[" * 100_000,
    "{'move': 'UP'}",
]


@pytest.mark.parametrize("reply", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_replies_are_no_move(reply: str) -> None:
    assert parse_reply(reply) is None


FRAGMENTS = [
    *Move.__members__,
    "Move: ",
    "Conclusion: ",
    "The move is: ",
    ". ",
    "\n",
    "Reasoning: why",
    '{"move": "',
    '"}',
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join) | st.text())
def test_what_is_read_stands_in_the_reply(reply: str) -> None:
    move = parse_reply(reply)
    if move is not None:
        assert move.value in reply
        others = [other.value for other in Move if other is not move]
        assert all(parse_reply(f"{reply}\nConclusion: {other}") is None for other in others)
        assert all(parse_reply(f"{reply}\n{other}") is None for other in others)


def test_long_replies_are_read_in_linear_time() -> None:
    for filler in (". ", "\n", "\t", " ", "Move: UP ", "Moving ", "UP. ", "a"):
        assert parse_reply(filler * 200_000 + "x") in (None, Move.UP)


@pytest.mark.parametrize(
    ("reply", "moves"),
    [
        ("Moves: U", "U"),
        ("Moves: U D12 R3.", "UDR"),
        ("Moves: U9& D&@", "UD"),
        ("at 57 apple 112 tail 140 reach 112. Moves: R58 U73 U74 L88", "RUUL"),
        ("U37 free\nMoves: L L\n", "LL"),
        ("Move: UP", "U"),
        ("UP. It is free.", "U"),
    ],
)
def test_a_reply_of_several_moves_is_read_in_order(reply: str, moves: str) -> None:
    assert parse_moves(reply) == tuple(next(move for move in Move if move.value[0] == initial) for initial in moves)
    assert parse_reply(reply) is (parse_moves(reply) or (None,))[0]


@pytest.mark.parametrize(
    "reply",
    [
        "Moves:",
        "Moves: ",
        "Moves: U,D",
        "Moves: UP DOWN",
        "Moves: U  D",
        "Moves: U X",
        "Moves: U and then D",
        "Moves: U12345",
        "Moves: U9&!",
        "moves: U",
        "the Moves: U",
        "Moves: U. Moves: D",
        "Moves: U9&. Moves: D",
        "Move: UP. Moves: U",
        "Moves: U. Move: UP",
        "UP. Moves: U D",
        "Conclusion: UP\nMoves: U",
        "Moves: U D.\nUP",
    ],
)
def test_several_moves_are_parsed_as_strictly_as_one(reply: str) -> None:
    assert parse_moves(reply) is None
