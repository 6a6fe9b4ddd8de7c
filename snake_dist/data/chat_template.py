"""The tokenizer's own chat template: whole conversations as transformers renders them, and what of them is trained.

Every assistant's turn is trained, with the token that ends it; nothing else is. Where a turn begins is known from the
prompt that a player would get: the same conversation up to there, rendered for a reply. It must be the beginning of the
whole, token for token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snake_dist.data.forms import BadLine
from snake_dist.data.records import Record
from snake_dist.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
_PROBE = [{"role": "user", "content": "Which move?"}, {"role": "assistant", "content": "Move: UP"}]
_SHOWN_TOKENS = 8
"""Of what stands before the place where two texts part."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a record."""

    ids: list[int]
    trained: list[tuple[int, int]]
    """From where to where they are trained, a span for each completion; the last one ends with the tokens."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the ids of a prompt as the only turn of the user, rendered for a reply."""
    content = without_start(prompt, tokenizer.bos_token or "", Counter())
    return _encode(tokenizer, [_rendered(tokenizer, [{"role": "user", "content": content}], for_reply=True)])[0]


def encode_records(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], own_special: Counter[str]
) -> list[Encoded | BadLine]:
    """Return the tokens of records up to the end of their last turn, or why the template cannot show one."""
    end = turn_end(tokenizer)
    ends = (tokenizer.decode([end]), str(tokenizer.eos_token))
    encoded: list[Encoded | BadLine] = []
    for record in records:
        messages = _messages(record, tokenizer.bos_token or "", ends, own_special)
        asked = [messages[:i] for i, message in enumerate(messages) if message["role"] == "assistant"]
        try:
            texts = [_rendered(tokenizer, shown, for_reply=True) for shown in asked]
            texts.append(_rendered(tokenizer, messages))
        except _refusals() as problem:
            encoded.append(BadLine("refused by the chat template", f": {problem}"))
            continue
        *prompts, whole = _encode(tokenizer, texts)
        try:
            trained = [_turn(tokenizer, prompt, whole, end) for prompt in prompts]
        except BadLine as bad:
            encoded.append(bad)
            continue
        encoded.append(Encoded(whole[: trained[-1][1]], trained))
    return encoded


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token with which the chat template ends the assistant's turn.

    Raises InputError if there is no chat template, or if it ends turns without a special token.
    """
    instead = "choose --template plain or instruction"
    if not tokenizer.chat_template:
        raise InputError(f"--template chat: the base model's tokenizer has no chat template: {instead}")
    try:
        shown = _rendered(tokenizer, _PROBE)
    except _refusals() as problem:
        raise InputError(f"--template chat: the tokenizer's chat template fails ({problem}): {instead}") from None
    _, found, after = shown.rpartition(_PROBE[-1]["content"])
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {*tokenizer.all_special_ids}
    end = next((i for i in _encode(tokenizer, [after])[0] if i in special), None)
    if not found or end is None:
        raise InputError(
            f"--template chat: the tokenizer's chat template ends the assistant's turn with no special token, so that "
            f"no reply would end: {instead}"
        )
    return end


def without_start(text: str, start: str, found: Counter[str]) -> str:
    """Return a prompt without the special token that a template writes before it; `found` counts such prompts."""
    if start and text.startswith(start):
        found[f"{start} at the start"] += 1
        while text.startswith(start):
            text = text.removeprefix(start)
    return text


def _without_ends(text: str, ends: tuple[str, ...], found: Counter[str]) -> str:
    """Return a completion without the special tokens that the template writes after it."""
    last = ""
    while end := next((end for end in ends if text.rstrip().endswith(end)), None):
        text, last = text.rstrip().removesuffix(end), last or end
    if last:
        found[f"{last} at the end"] += 1
    return text


def _messages(record: Record, start: str, ends: tuple[str, ...], found: Counter[str]) -> list[Message]:
    messages = [{"role": "system", "content": record.system}] if record.system else []
    for prompt, completion in record.turns:
        messages.append({"role": "user", "content": without_start(prompt, start, found)})
        messages.append({"role": "assistant", "content": _without_ends(completion, ends, found)})
    return messages


def _turn(tokenizer: PreTrainedTokenizerBase, prompt: list[int], whole: list[int], end: int) -> tuple[int, int]:
    """Return from where to where `whole` is the assistant's turn after `prompt`. Raises BadLine if it is not."""
    start = len(prompt)
    if whole[:start] != prompt:
        at = next(i for i in range(start) if i >= len(whole) or whole[i] != prompt[i])
        before = tokenizer.decode(prompt[max(at - _SHOWN_TOKENS, 0) : at])
        own, full = (tokenizer.decode(ids[at : at + 1]) for ids in (prompt, whole))
        raise BadLine(
            "the chat template's prompt is not the beginning of its full text",
            f": they part at token {at + 1}, after {before!r}: {own!r} in the prompt, {full!r} in the full text",
        )
    if end not in whole[start:]:
        raise BadLine(f"the chat template does not end this turn with {tokenizer.decode([end])!r}")
    return start, whole.index(end, start) + 1


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: list[Message], for_reply: bool = False) -> str:
    """Return the conversation's text. Templates of models that think aloud are asked to leave that out."""
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=for_reply, enable_thinking=False)
    )


def _refusals() -> tuple[type[Exception], ...]:
    """Return what rendering raises where a template refuses a conversation."""
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
