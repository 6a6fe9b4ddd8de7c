"""Players: whoever is shown a batch of positions and answers each with a text.

Heuristics answer in text too, so that every player goes through the same strict `parse_reply`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from snake_dist.data.tokenization import encode_prompt
from snake_dist.game.board import Move, State
from snake_dist.game.text import render_prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Initialisations that take the adapter's start out of the base: without the adapter no base is left.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")

MAX_PADDED_ROWS = 64
"""Rows that `generate` decodes at once, padded: more take more memory and wait for more rows that are not done."""
EXAMPLE_END = "\n---"
"""Closes each example of a few-shot prompt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply and how it came about."""

    text: str
    """What the player said; judged by the caller."""
    prompt: str | None = None
    """What it was shown; None if it looks at the board itself."""
    num_tokens: int | None = None
    """Tokens it took, the stop token included; None if there are none."""


class Player(Protocol):
    """Anything with `replies`; a position it is asked about is always of a running game."""

    def replies(self, states: Sequence[State]) -> list[str]:
        """One reply for each state, in order. What the replies say is judged by the caller."""
        ...


@runtime_checkable
class AnsweringPlayer(Player, Protocol):
    """A player that can also say what it was shown and how many tokens it took."""

    def answers(self, states: Sequence[State]) -> list[Answer]:
        """One answer for each state, in order; their texts are what `replies` gives."""
        ...


def answer_all(player: Player, states: Sequence[State]) -> list[Answer]:
    """The player's answers, with as much about each as it can say."""
    if isinstance(player, AnsweringPlayer):
        return player.answers(states)
    return [Answer(text) for text in player.replies(states)]


@dataclass(frozen=True)
class HeuristicPlayer:
    """A policy of `heuristics.POLICIES`; replies with the bare name of its move."""

    policy: Callable[[State], Move]

    def replies(self, states: Sequence[State]) -> list[str]:
        return [self.policy(state).value for state in states]


@dataclass(frozen=True)
class ModelPlayer:
    """A causal language model, decoded greedily whatever its own generation config says.

    Promise: a reply is a function of its state, the weights and the style, up to floating point. Batch size,
    order and the other states of a batch change only the shapes of the matrix products, and so the last bits
    of the logits. In fp32 a reply then differs only where two tokens are all but tied; in bfloat16 or float16
    near-ties are common enough that now and then a reply does differ. The same states, batch size, machine
    and libraries give the same replies.

    A prompt that leaves fewer than `max_new_tokens` of the model's `max_position_embeddings` is not shown to
    it; its reply is empty, and so an invalid one.
    """

    model: PreTrainedModel | PeftModel
    """On its device. It is switched to eval mode while it answers and back afterwards. It may be in training: no
    inference_mode, since what ZeRO-3 gathers in it could not be trained with afterwards."""
    tokenizer: PreTrainedTokenizerBase
    style: str
    """One of `game.text.STYLES`: the one the adapter was trained on."""
    max_new_tokens: int
    """A reply stops here if no end-of-sequence token came before."""
    batch_size: int
    """States decoded at once."""
    adapter: bool = True
    """False: answer as the base model, with the adapter of a PeftModel switched off."""
    examples: str = ""
    """Stands before every prompt (`evaluation.modes`); a reply then ends where it goes on to another example."""

    def replies(self, states: Sequence[State]) -> list[str]:
        return [answer.text for answer in self.answers(states)]

    def answers(self, states: Sequence[State]) -> list[Answer]:
        shown = [self.examples + render_prompt(state, self.style) for state in states]
        prompts = [encode_prompt(self.tokenizer, prompt) for prompt in shown]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        room = math.inf if limit is None else limit - self.max_new_tokens
        fitting = [i for i, ids in enumerate(prompts) if len(ids) <= room]
        fitting.sort(key=lambda i: len(prompts[i]))  # neighbours of like length need little padding
        answers = [Answer("", prompt, 0) for prompt in shown]
        with answering(self.model, self.adapter):
            decoded = decode(
                self.model, self.tokenizer, [prompts[i] for i in fitting], self.max_new_tokens, self.batch_size
            )
        for i, ids in zip(fitting, decoded, strict=True):
            # Special tokens stay visible: leaving them out would repair a reply.
            text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            text = text.split(EXAMPLE_END)[0] if self.examples else text
            answers[i] = Answer(text, shown[i], min(len(ids) + 1, self.max_new_tokens))
        return answers


def decode(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """The most likely continuation of each prompt (token ids), token by token, without its stop token.

    Stop tokens are the tokenizer's end of sequence and those of the model's generation config (an instruct model
    ends its turn with one of those). `batch_size` rows at once: by `SlotDecoder` where the model has slots, else by
    `generate`. `model` is in eval mode.
    """
    from snake_dist.evaluation.decoding import SlotDecoder, has_slots

    if not prompts:
        return []
    plain = _without_peft(model)
    if not has_slots(plain):
        rows = min(batch_size, MAX_PADDED_ROWS)
        batches = [prompts[start : start + rows] for start in range(0, len(prompts), rows)]
        return [ids for batch in batches for ids in greedy_decode(model, tokenizer, batch, max_new_tokens)]
    decoder = SlotDecoder(plain, _stop_ids(plain, tokenizer), max_new_tokens, batch_size)
    for i, prompt in enumerate(prompts):
        decoder.add(i, prompt)
    decoded: list[list[int]] = [[] for _ in prompts]
    with decoder.open():
        while decoder.is_busy:
            for i, ids in decoder.finished():
                decoded[i] = ids
    return decoded


def greedy_decode(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """`decode` by transformers' `generate`: one batch, padded on the left, cached; ends when every row has met a stop
    token or has `max_new_tokens`."""
    import torch
    from transformers import GenerationConfig

    plain = _without_peft(model)
    stops = _stop_ids(plain, tokenizer)
    # The mask hides padding, so any token will do where the tokenizer has none for it.
    pad = next((i for i in (tokenizer.pad_token_id, *stops) if i is not None), 0)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=pad,
    )
    width = max(len(ids) for ids in prompts)
    padded = [[pad] * (width - len(ids)) + list(ids) for ids in prompts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    device = next(model.parameters()).device
    own = plain.generation_config
    # The last position's hidden states are a strided view of the prompt's: the head's product would copy the head
    # once for each row, which took longer than all other tokens of a reply together.
    contiguous = plain.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
    # generate() fills what its argument leaves open (a repetition penalty, say) from the model's own config.
    plain.generation_config = config
    try:
        output = model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=config,
        )
    finally:
        plain.generation_config = own
        contiguous.remove()
    return [before_stop(row, stops) for row in output[:, width:].tolist()]


@contextmanager
def answering(model: Any, adapter: bool) -> Iterator[None]:
    """Eval mode inside, without the adapter if it is not wanted; all as before outside."""
    was_training = model.training
    model.eval()
    try:
        with nullcontext() if adapter else _adapter_off(model):
            yield
    finally:
        model.train(was_training)


def _adapter_off(model: Any) -> Any:
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return nullcontext()
    for config in model.peft_config.values():
        init = getattr(config, "init_lora_weights", None)
        if isinstance(init, str) and init.startswith(_BASE_CHANGING_INITS):
            raise ValueError(f"{init} changes the base's weights: load the base by itself to play it")
    return model.disable_adapter()


def _without_peft(model: Any) -> Any:
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def _stop_ids(plain: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    configured = plain.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in (*several, tokenizer.eos_token_id) if i is not None})


def before_stop(ids: list[int], stops: list[int]) -> list[int]:
    """The tokens before the first stop token."""
    return next((ids[:i] for i, token in enumerate(ids) if token in stops), ids)
