"""The text around a prompt and its completion, and its tokens: what training and every player share.

A prompt and its completion are tokenized apart and joined as ids, so the boundary between them is exact, and
`encode_prompt` gives a player the very ids that the model was trained on.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n"
"""Stands between prompt and completion."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the ids of a prompt as in training: the tokenizer's special tokens, the text, the separator."""
    return encode_prompts(tokenizer, [prompt], Counter())[0]


def encode_completion(tokenizer: PreTrainedTokenizerBase, completion: str) -> list[int]:
    """Return the ids of a completion as in training, without the end of sequence that follows them."""
    return encode_completions(tokenizer, [completion], Counter())[0]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], own_special: Counter[str]
) -> list[list[int]]:
    """Return the ids of prompts. What the tokenizer writes before every text stands there once, also where a prompt
    begins with it: `own_special` counts such prompts."""
    rows = _encode(tokenizer, [prompt + SEPARATOR for prompt in prompts], special=True)
    opening = _opening(tokenizer)
    for row, ids in enumerate(rows):
        # Some tokenizers close every text with the end of sequence: here the text goes on.
        rows[row] = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
        if opening and _begins_twice(ids, opening):
            own_special[f"{tokenizer.decode(opening)} at the start"] += 1
            while _begins_twice(rows[row], opening):
                rows[row] = rows[row][len(opening) :]
    return rows


def encode_completions(
    tokenizer: PreTrainedTokenizerBase, completions: list[str], own_special: Counter[str]
) -> list[list[int]]:
    """Return the ids of completions, up to the end of sequence that follows all of them: it stands there once, also
    where a completion ends with it, white space after it included; `own_special` counts such completions."""
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
    return tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]


def stop_ids(configured: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end a reply: the end of sequence, as in training, and the `configured` ones of the model's
    generation config, which instruct models need."""
    several = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in (*several, tokenizer.eos_token_id) if i is not None})
