"""Greedy decoding of many prompts by one model: a slot whose text is finished takes the next prompt at once.

A prompt may come with a draft of its continuation. One pass then computes the model's token after every token of the
draft, and the draft is kept as far as the two agree: the result is that of decoding token by token, in fewer passes
(speculative decoding: Leviathan, Kalman and Matias, ICML 2023; greedy here, so nothing is drawn).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any
from weakref import WeakKeyDictionary

import torch

from snake_dist.model.slot_attention import SlotRow, forward_slots, slot_attended
from snake_dist.model.slot_cache import SlotCache
from snake_dist.model.slot_proof import supports_slots

MAX_ROW = {"cpu": 2048, "cuda": 8192}
"""One forward pass begins prompts of at most this many tokens, or one longer prompt: a bound of its memory. More tokens
make no pass faster on a CPU."""
CPU_CACHE_BYTES = 2 << 30
"""Most memory of keys and values on a CPU, on a GPU half of what the process could use; fewer slots stay below it."""
MIN_PREFIX = 8
"""A shorter beginning that all prompts share is not worth a pass of its own."""

_supported: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def has_slots(model: Any) -> bool:
    """Return whether `SlotDecoder` can decode for this model (without a PEFT wrapper); each model is tried once."""
    if model not in _supported:
        _supported[model] = supports_slots(model)
    return _supported[model]


@dataclass(frozen=True, slots=True, order=True)
class _Prompt:
    name: int
    tokens: Sequence[int] = field(compare=False)
    draft: Sequence[int] = field(compare=False)


@dataclass(slots=True)
class _Text:
    """The text in a slot."""

    name: int
    length: int
    """Its tokens in the slot."""
    decoded: list[int]
    """The last one is not in the slot yet."""


class SlotDecoder:
    """Computes the most likely continuation of each prompt, token by token, up to `max_new_tokens` or a stop token.

    `add` prompts at any time; `finished` computes until some are done. The model is in eval mode.
    """

    def __init__(self, model: Any, stops: Sequence[int], max_new_tokens: int, num_slots: int) -> None:
        """`model` has no PEFT wrapper, though its layers may be adapted, and is one that `has_slots`."""
        self._model, self._stops = model, frozenset(stops)
        self._max_new_tokens, self._num_slots = max_new_tokens, num_slots
        weight = model.get_input_embeddings().weight
        self._device, self._token_bytes = weight.device, _token_bytes(model.config, weight.element_size())
        self._cache = SlotCache(0, 0)
        self._limit = 0
        """Slots that may be used at this capacity."""
        self._waiting: list[_Prompt] = []
        """A heap: so some of the long games end early, rather than all together at the end."""
        self._num_drafted = self._num_agreed = 0
        self._prefix: Sequence[int] | None = None
        """Beginning of every slot; a prompt that begins otherwise makes it shorter."""
        self._texts: list[_Text] = []
        """In the first slots, one in each."""

    def add(self, name: int, prompt: Sequence[int], draft: Sequence[int] = ()) -> None:
        """Add a prompt of at least one token; `name` comes back with its continuation, which `draft` does not change.

        Of the prompts that wait, those with the lowest names begin first.
        """
        draft = before_stop(draft, self._stops)[: self._max_new_tokens - 1]
        heappush(self._waiting, _Prompt(name, prompt, draft))

    @property
    def wants_drafts(self) -> bool:
        """Whether drafts pay: at least half of the drafted tokens so far were the model's own."""
        return 2 * self._num_agreed >= self._num_drafted

    @property
    def is_busy(self) -> bool:
        return bool(self._texts or self._waiting)

    def finished(self) -> list[tuple[int, list[int]]]:
        """Decode until at least one prompt is done; return (name, continuation without its stop token) of each.

        The list is empty only if nothing is left to do.
        """
        done: list[tuple[int, list[int]]] = []
        # Not inference_mode: what ZeRO-3 gathers in it could not be trained with afterwards.
        with torch.no_grad(), slot_attended(self._model):
            while self.is_busy and not done:
                done = self._step()
        return done

    def _step(self) -> list[tuple[int, list[int]]]:
        """Compute one token for each slot in use, and the first tokens of as many waiting prompts as have room."""
        begun = self._admitted()
        start = len(self._prefix or ())
        num_used = len(self._texts)
        row = SlotRow(
            self._cache,
            [text.length for text in self._texts],
            range(num_used, num_used + len(begun)),
            [len(prompt.tokens) - start + len(prompt.draft) for prompt in begun],
            start,
            self._device,
            [1 + len(prompt.draft) for prompt in begun],
        )
        tokens = [text.decoded[-1] for text in self._texts]
        tokens += [token for prompt in begun for token in (*prompt.tokens[start:], *prompt.draft)]
        said = forward_slots(self._model, tokens, row).max(-1).indices.tolist()
        following = said[:num_used]
        for text in self._texts:
            text.length += 1
        at = num_used
        for prompt in begun:
            agreed = _shared(prompt.draft, said[at : at + len(prompt.draft)])
            following.append(said[at + agreed])
            self._texts.append(_Text(prompt.name, len(prompt.tokens) + agreed, list(prompt.draft[:agreed])))
            at += 1 + len(prompt.draft)
            self._num_drafted += len(prompt.draft)
            self._num_agreed += agreed
        done = []
        origins = list(range(len(following)))
        for slot in reversed(range(len(following))):
            text = self._texts[slot]
            is_stop = following[slot] in self._stops
            if not is_stop:
                text.decoded.append(following[slot])
            if is_stop or len(text.decoded) == self._max_new_tokens:
                done.append((text.name, text.decoded))
                # The last slot in use moves to the place of one that is done: so those in use stay the first ones.
                self._texts[slot], origins[slot] = self._texts[-1], origins[-1]
                self._texts.pop()
                origins.pop()
        moved = [slot for slot, origin in enumerate(origins) if slot != origin]
        if moved:
            longest = max(self._texts[slot].length for slot in moved)
            self._cache.move([origins[slot] for slot in moved], moved, longest)
        return done[::-1]

    def _admitted(self) -> list[_Prompt]:
        """Return the waiting prompts that begin in this step; the cache has room for them."""
        if not self._waiting:
            return []
        if self._prefix is None:
            self._compute_prefix()
        begun: list[_Prompt] = []
        num_tokens = 0
        while self._waiting:
            prompt = self._waiting[0]
            num_tokens += len(prompt.tokens) + len(prompt.draft)
            room = self._make_room(len(self._texts) + len(begun), len(prompt.tokens))
            if (begun and num_tokens > MAX_ROW[self._device.type]) or not room:
                break
            assert self._prefix is not None
            # A prompt's last token is not taken from the prefix, since its logits are needed.
            self._prefix = self._prefix[: _shared(self._prefix, prompt.tokens[:-1])]
            begun.append(heappop(self._waiting))
        return begun

    def _make_room(self, num_used: int, prompt_length: int) -> bool:
        """Return whether such a prompt has a free slot beside `num_used` others; the cache grows if it must."""
        length = prompt_length + self._max_new_tokens
        if length > self._cache.capacity:
            capacity = max(length, min(2 * self._cache.capacity, length + 256))
            room = _cache_bytes(self._device) // (capacity * self._token_bytes)
            self._limit = max(1, min(self._num_slots, room))
            self._cache.resize(max(self._limit, num_used), capacity)
            self._cache.copy(0, slice(None), len(self._prefix or ()))
        return num_used < self._limit

    def _compute_prefix(self) -> None:
        """Compute the beginning that all waiting prompts share, once for every slot."""
        prompts = [prompt.tokens for prompt in self._waiting]
        length = min(_shared(prompts[0], prompt[:-1]) for prompt in prompts)
        self._prefix = prompts[0][:length] if len(prompts) > 1 and length >= MIN_PREFIX else ()
        self._make_room(0, max(map(len, prompts)))
        if self._prefix:
            row = SlotRow(self._cache, [], [0], [len(self._prefix)], 0, self._device)
            forward_slots(self._model, self._prefix, row)
            self._cache.copy(0, slice(None), len(self._prefix))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def before_stop(ids: Sequence[int], stops: Collection[int]) -> Sequence[int]:
    """Return the tokens before the first stop token."""
    return next((ids[:i] for i, token in enumerate(ids) if token in stops), ids)


def _token_bytes(config: Any, element_size: int) -> int:
    """Return the bytes of one token's keys and values, by the model's config."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * element_size


def _cache_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) // 2
