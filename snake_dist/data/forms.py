"""The forms of training data that people have, each read as the turns of a conversation: (prompt, completion) pairs.

A form is known by the keys of a line. All lines of a file are of one form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snake_dist.errors import InputError

Turns = tuple[tuple[str, str], ...]

PAIRS = "prompt/completion"
_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}


class BadLine(Exception):
    """`reason` is one of few, so that it can be counted; `detail` is this line's own."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Form:
    """A way to write down a conversation."""

    keys: tuple[str, ...]
    """A line of this form has them all."""
    read: Callable[[Mapping[str, Any]], tuple[str, Turns]]
    """Returns (system, turns); raises BadLine."""


def _read_pair(fields: Mapping[str, Any]) -> tuple[str, Turns]:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        system, turns = _conversation(prompt + completion, "prompt and completion")
        if len(turns) > 1 or len(completion) > 1:
            raise BadLine("prompt and completion of several turns", ": write them as messages; all answers are trained")
        return system, turns
    return "", ((_text(prompt, "prompt"), _text(completion, "completion")),)


def _read_messages(fields: Mapping[str, Any]) -> tuple[str, Turns]:
    return _with_system(fields, *_conversation(fields["messages"], "messages"))


def _read_conversations(fields: Mapping[str, Any]) -> tuple[str, Turns]:
    return _with_system(fields, *_conversation(fields["conversations"], "conversations"))


def _read_instruction(fields: Mapping[str, Any]) -> tuple[str, Turns]:
    parts = [_text(fields["instruction"], "instruction", may_be_blank=True)]
    parts.append(_text(fields.get("input") or "", "input", may_be_blank=True))
    prompt = _text("\n\n".join(part for part in parts if part.strip()), "instruction")
    earlier = fields.get("history") or []
    if not isinstance(earlier, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in earlier):
        raise BadLine("history is not a list of pairs")
    turns = [(_text(asked, "history"), _text(said, "history")) for asked, said in earlier]
    return _with_system(fields, "", (*turns, (prompt, _text(fields["output"], "output"))))


FORMS = {
    PAIRS: Form(("prompt", "completion"), _read_pair),
    "messages": Form(("messages",), _read_messages),
    "conversations": Form(("conversations",), _read_conversations),
    "instruction/output": Form(("instruction", "output"), _read_instruction),
}
COLUMNS = ("prompt", "completion", "messages", "conversations", "instruction", "input", "output", "system", "history")
"""What --columns can name: all keys that any form reads."""


def parse_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return {key of a form: the data's own} for the words of --columns. Raises InputError naming a wrong one."""
    parsed: dict[str, str] = {}
    for word in columns:
        key, _, own = word.partition("=")
        if key not in COLUMNS or not own or key in parsed:
            raise InputError(f"--columns {word}: KEY=COLUMN is expected, each KEY once, of {', '.join(COLUMNS)}")
        parsed[key] = own
    return parsed


def form_of(fields: Mapping[str, Any], file_form: str | None, columns: Mapping[str, str]) -> str:
    """Return the form of a line in a file of this form (None: not known yet). Raises BadLine if it has another."""
    if file_form is not None and fields.keys() >= {*FORMS[file_form].keys}:
        return file_form
    # What the user named by --columns goes first.
    names = sorted(FORMS, key=lambda name: not columns.keys() & {*FORMS[name].keys})
    found = next((name for name in names if fields.keys() >= {*FORMS[name].keys}), None)
    if found is not None and file_form is None:
        return found
    if found is not None:
        raise BadLine("a mixture of forms in one file", f": {found}, where lines before it are {file_form}")
    likeliest = file_form or max(names, key=lambda name: len(fields.keys() & {*FORMS[name].keys}))
    missing = next(key for key in FORMS[likeliest].keys if key not in fields)
    own = f", nor {columns[missing]!r} of --columns" if missing in columns else ""
    others = f"; the forms are {', '.join(FORMS)}, or --columns KEY=COLUMN" if file_form is None else ""
    raise BadLine(f"no key {missing!r}", f"{own}{others}")


def _with_system(fields: Mapping[str, Any], system: str, turns: Turns) -> tuple[str, Turns]:
    """Return a conversation with the line's own `system`, if it has none in its turns."""
    return system or _text(fields.get("system") or "", "system", may_be_blank=True).strip(), turns


def _conversation(messages: Any, key: str) -> tuple[str, Turns]:
    """Return (system, turns) of a list of messages: role and content, or from and value."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadLine(f"{key}: not a list of messages")
    said = [_message(message, key, number) for number, message in enumerate(messages, 1)]
    system = ""
    if said and said[0][0] == "system":
        system = said.pop(0)[1]
    roles = [role for role, _ in said]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        is_open = roles[-1:] == ["user"] and roles[:-1] == ["user", "assistant"] * (len(roles) // 2)
        why = "ends with the user's turn" if is_open else "user and assistant do not take turns"
        raise BadLine(f"{key}: {why}", f": {', '.join(roles[:6])}{', ...' if len(roles) > 6 else ''}" if roles else "")
    texts = [text for _, text in said]
    return system, tuple(zip(texts[::2], texts[1::2], strict=True))


def _message(message: Mapping[str, Any], key: str, number: int) -> tuple[str, str]:
    role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
    for wanted in (role_key, text_key):
        if wanted not in message:
            raise BadLine(f"{key}: a message without {wanted!r}", f", the {number}. one")
    role = _ROLES.get(message[role_key]) if isinstance(message[role_key], str) else None
    if role is None:
        shown = f"{message[role_key]!r:.40}, the {number}. message"
        raise BadLine(f"{key}: an unknown role", f": {shown}; known: {', '.join(_ROLES)}")
    return role, _text(message[text_key], f"{key}: a message's {text_key}")


def _text(text: Any, name: str, *, may_be_blank: bool = False) -> str:
    if not isinstance(text, str):
        raise BadLine(f"{name} is not a string", f" but {type(text).__name__}")
    if not text.strip() and not may_be_blank:
        raise BadLine(f"empty {name}")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        # Half of a surrogate pair passes JSON and then crashes every encoder.
        raise BadLine(f"{name} contains half of a surrogate pair")
    return text
