"""Replies, read strictly: the moves that a player's text decides on, in any of the accepted forms."""

from __future__ import annotations

import json
import re

from snake_dist.game.board import Move
from snake_dist.styles.compact import SIGNS

_MOVE = "(UP|DOWN|LEFT|RIGHT)"
# A decision that closes the reply, at the start of a sentence: "... Move: UP", "Conclusion: The move is: UP".
_CLOSING = re.compile(rf"(?:^|\n|[.!?]\s)[ \t]*(?:Move: |Conclusion: (?:The move is: )?){_MOVE}\.?\Z")
# A decision that opens the reply: "UP", "UP. Because ...", "Move: UP. Reasoning: ...".
_OPENING = re.compile(rf"{_MOVE}\.?\Z|{_MOVE}\. \S|Move: {_MOVE}\. Reasoning: \S")
# Several moves that close the reply: "... Moves: U58 U59 R60"; places as `render_cell` or `render_place`.
_STEP = rf"[UDLR][{re.escape(SIGNS)}]{{0,4}}"
_SEVERAL = re.compile(rf"(?:^|[.!?\n]\s*)Moves:(?P<moves>(?: {_STEP})+)\.?\Z")
_SEVERAL_ANYWHERE = re.compile(rf"\bMoves:(?= {_STEP}(?!\w))")
_BY_INITIAL = {move.value[0]: move for move in Move}
# Whatever else reads as a decision, with the word it decides on: each must name the same move.
_DECISIONS = (
    re.compile(r"\b(?i:move|conclusion)[ \t]*:[ \t]*(?:The move is:[ \t]*)?([^\s.]*)"),
    re.compile(r"\bMoving ([A-Z]+) from\b"),
    re.compile(rf"(?:(?<=[.!?\n])|^)[ \t]*{_MOVE}[ \t]*(?=[.!?\n]|\Z)"),
)


def parse_reply(reply: str) -> Move | None:
    """The one move a reply decides on, or None; the first, where it decides on several (`parse_moves`)."""
    moves = parse_moves(reply)
    return moves[0] if moves else None


def parse_moves(reply: str) -> tuple[Move, ...] | None:
    """The moves a reply decides on, in order, or None. Strict: nothing is repaired.

    Accepted are a reply that ends in the sentence `Move: X`, `Conclusion: X` or `Conclusion: The move is: X`,
    one that is `X` or opens with it as in `X. <text>` or `Move: X. Reasoning: <text>`, and a JSON object with
    one key `move`. X is UP, DOWN, LEFT or RIGHT in capitals; a full stop may follow. Several moves are decided
    on by a reply that ends in the sentence `Moves: U D12 R3`: initials, to which a place may be joined that is
    reasoning. None if anything else in the reply that reads as a decision names something else.
    """
    text = reply.strip()
    if several := _SEVERAL.search(text):
        before = text[: several.start("moves")]
        if any(pattern.search(before) for pattern in (*_DECISIONS, _SEVERAL_ANYWHERE)) or _OPENING.match(before):
            return None
        return tuple(_BY_INITIAL[word[0]] for word in several["moves"].split())
    move, rest = _json_move(text) if text.startswith("{") else (_plain_move(text), text)
    if (
        move is None
        or _SEVERAL_ANYWHERE.search(rest)
        or any(word != move for pattern in _DECISIONS for word in pattern.findall(rest))
    ):
        return None
    return (Move(move),)


def _plain_move(text: str) -> str | None:
    matches = (_CLOSING.search(text), _OPENING.match(text))
    found = {word for match in matches if match for word in match.groups() if word}
    return found.pop() if len(found) == 1 else None


def _json_move(text: str) -> tuple[str | None, str]:
    """(the move, the object's other values as text)."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None, ""
    moves = [(key, value) for key, value in pairs if key == "move"]
    rest = "\n".join(str(value) for key, value in pairs if key != "move")
    return (moves[0][1], rest) if moves in [[("move", move.value)] for move in Move] else (None, rest)
