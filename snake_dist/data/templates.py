"""The text around a prompt and its completion, and its tokens: what training and every player share.

`plain` and `instruction` tokenize a prompt and its completion apart and join the ids, so the boundary between them is
exact. `chat` is the tokenizer's own template, whose text is tokenized as a whole, as transformers does it; a prompt
must then be the beginning of its whole text, token for token. Either way `encode_prompt` gives a player the very ids
that the model was trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from snake_dist.data import chat_template
from snake_dist.data.chat_template import Encoded, without_start
from snake_dist.data.forms import BadLine
from snake_dist.data.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Template = Literal["plain", "instruction", "chat"]
"""plain: prompt, line break, completion. instruction: under the headings `### Instruction:` and `### Response:`.
chat: the tokenizer's own chat template, with the prompt as the user's turn and the completion as the assistant's."""

SEPARATOR = "\n"
"""Stands between prompt and completion in the plain template."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, template: Template = "plain") -> list[int]:
    """Return the ids of a prompt as in training: all that stands before the first token of its completion."""
    if template == "chat":
        return chat_template.encode_prompt(tokenizer, prompt)
    return _encode_openings(tokenizer, [_text_before(tokenizer, template, prompt, Counter())], Counter())[0]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Return the ids of a completion by itself, without the token that ends it."""
    return _encode_completions(tokenizer, [completion], Counter())[0]


def encode_records(
    tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], template: Template, own_special: Counter[str]
) -> list[Encoded | BadLine]:
    """Return the tokens of records, or why the chat template cannot show one.

    Special tokens stand once, whoever wrote them: what comes before every text, also where a prompt begins with it, and
    what ends a completion, also where it ends with that itself. `own_special` counts the texts that bear them.
    """
    if template == "chat":
        return chat_template.encode_records(tokenizer, records, own_special)
    prompts = [
        [_text_before(tokenizer, template, prompt, own_special) for prompt, _ in record.turns] for record in records
    ]
    for first, record in zip(prompts, records, strict=True):
        if record.system:
            first[0] = record.system + (SEPARATOR if template == "plain" else SEPARATOR * 2) + first[0]
    openings = _encode_openings(tokenizer, [first for first, *_ in prompts], own_special)
    later = iter(_encode(tokenizer, [prompt for _, *rest in prompts for prompt in rest], special=False))
    said = [completion for record in records for _, completion in record.turns]
    completions = iter(_encode_completions(tokenizer, said, own_special))
    encoded: list[Encoded | BadLine] = []
    for opening, record in zip(openings, records, strict=True):
        ids: list[int] = []
        trained = []
        for prompt in (opening, *islice(later, len(record.turns) - 1)):
            ids += prompt
            start = len(ids)
            ids += [*next(completions), tokenizer.eos_token_id]
            trained.append((start, len(ids)))
        encoded.append(Encoded(ids, trained))
    return encoded


def stop_ids(
    configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase, template: Template = "plain"
) -> list[int]:
    """Return the tokens that end a reply: the end of sequence, as in training, the one that ends a turn of the chat
    template, and the `configured` ones of the model's generation config, which instruct models need."""
    several = configured if isinstance(configured, list) else [configured]
    ends = [chat_template.turn_end(tokenizer)] if template == "chat" else []
    return sorted({i for i in (*several, tokenizer.eos_token_id, *ends) if i is not None})


def check_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Raise InputError unless the tokenizer has what the template needs."""
    if template == "chat":
        chat_template.turn_end(tokenizer)


def described_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> str:
    """Return everything that decides the text around a prompt and its completion."""
    return f"chat\n{tokenizer.get_chat_template()}" if template == "chat" else template


def _text_before(tokenizer: PreTrainedTokenizerBase, template: Template, prompt: str, own_special: Counter[str]) -> str:
    """Return the text of a turn up to its completion."""
    if template == "plain":
        return prompt + SEPARATOR
    own = without_start(prompt, tokenizer.decode(_opening(tokenizer)), own_special)
    return f"### Instruction:\n{own}\n\n### Response:\n"


def _encode_openings(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], own_special: Counter[str]
) -> list[list[int]]:
    """Return the ids of texts that begin an example: what the tokenizer writes before every text stands there once."""
    rows = _encode(tokenizer, texts, special=True)
    opening = _opening(tokenizer)
    for row, ids in enumerate(rows):
        # Some tokenizers close every text with the end of sequence: here the text continues.
        rows[row] = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
        if opening and _begins_twice(ids, opening):
            own_special[f"{tokenizer.decode(opening)} at the start"] += 1
            while _begins_twice(rows[row], opening):
                rows[row] = rows[row][len(opening) :]
    return rows


def _encode_completions(
    tokenizer: PreTrainedTokenizerBase, completions: list[str], own_special: Counter[str]
) -> list[list[int]]:
    """Return the ids of completions, up to the end of sequence that follows all of them: it stands there once, also
    where a completion ends with it, white space after it included."""
    end, end_id = str(tokenizer.eos_token), tokenizer.eos_token_id
    texts = [text.rstrip() if text.rstrip().endswith(end) else text for text in completions]
    rows = _encode(tokenizer, texts, special=False)
    for row, ids in enumerate(rows):
        if ids[-1:] == [end_id]:
            own_special[f"{end} at the end"] += 1
            while rows[row][-1:] == [end_id]:
                rows[row] = rows[row][:-1]
    return rows


def _opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that the tokenizer writes before every text."""
    (plain,), (special,) = (_encode(tokenizer, ["a"], special=special) for special in (False, True))
    start = next(i for i in range(len(special) - len(plain) + 1) if special[i:][: len(plain)] == plain)
    return special[:start]


def _begins_twice(ids: list[int], opening: list[int]) -> bool:
    return ids[: 2 * len(opening)] == [*opening, *opening]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"] if texts else []
