"""Causal language models as players: prompts, greedy decoding, the adapter on or off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snake_dist.data.templates import Template, encode_completion, encode_prompt, stop_ids
from snake_dist.evaluation.players.protocol import Answer, Conversation, Rounds
from snake_dist.game.board import State
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_completion, render_prompt, teacher_on

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from snake_dist.model.decoding import SlotDecoder

# These initialisations subtract the adapter's start from the base: with the adapter off, the base is not left.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")

MAX_PADDED_ROWS = 64
"""Rows that `generate` decodes at once, padded: more rows take more memory and wait longer for the last one."""
EXAMPLE_END = "\n---"
"""Closes each example of a few-shot prompt."""


@dataclass(frozen=True)
class LanguageModelPlayer:
    """A causal language model, decoded greedily whatever its own generation config says.

    Promise: a reply is a function of its state, the weights and the style, up to floating point. Batch size,
    order and the other states of a batch change only the shapes of the matrix products, and so the last bits
    of the logits. In fp32 a reply then differs only where two tokens are all but tied; in bfloat16 or float16
    near-ties are common enough that now and then a reply does differ. The same states, batch size, machine
    and libraries give the same replies.

    The model does not see a prompt that leaves fewer than `max_new_tokens` of its `max_position_embeddings`; the
    reply is then empty, which is invalid.
    """

    model: PreTrainedModel | PeftModel
    """On its device. It is switched to eval mode while it answers and back afterwards. It may be in training: no
    inference_mode, since what ZeRO-3 gathers in it could not be trained with afterwards."""
    tokenizer: PreTrainedTokenizerBase
    style: str
    """One of `catalog.STYLES`: the one the adapter was trained on."""
    max_new_tokens: int
    """A reply without an end-of-sequence token stops after this many tokens."""
    batch_size: int
    """States decoded at once."""
    adapter: bool = True
    """False: answer as the base model, with the adapter of a PeftModel switched off."""
    template: Template = "plain"
    """What the adapter saw around a prompt in training."""
    examples: str = ""
    """Text before every prompt (`players.modes`); a reply then ends where it begins another example."""

    def replies(self, states: Sequence[State]) -> list[str]:
        return [answer.text for answer in self.answers(states)]

    def answers(self, states: Sequence[State]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        with self.conversation() as asked:
            for i, state in enumerate(states):
                asked.ask(i, state)
            while len(answers) < len(states):
                answers.update(asked.answered())
        return [answers[i] for i in range(len(states))]

    @contextmanager
    def conversation(self) -> Iterator[Conversation]:
        """Open a conversation; where the model has slots, a finished reply makes room for the next question at once."""
        from snake_dist.model.decoding import SlotDecoder, has_slots

        plain = _without_peft(self.model)
        with answering(self.model, self.adapter):
            if has_slots(plain):
                stops = stop_ids(plain.generation_config.eos_token_id, self.tokenizer, self.template)
                yield _InSlots(self, SlotDecoder(plain, stops, self.max_new_tokens, self.batch_size))
            else:
                yield Rounds(self._padded_answers)

    def _padded_answers(self, states: Sequence[State]) -> list[Answer]:
        asked = [self.encode(state) for state in states]
        fitting = [i for i, (_, ids) in enumerate(asked) if ids is not None]
        fitting.sort(key=lambda i: len(asked[i][1] or ()))  # neighbours of like length need little padding
        rows = min(self.batch_size, MAX_PADDED_ROWS)
        answers = [self.answer(shown, None) for shown, _ in asked]
        for start in range(0, len(fitting), rows):
            batch = fitting[start : start + rows]
            prompts = [asked[i][1] or [] for i in batch]
            decoded = greedy_decode(self.model, self.tokenizer, prompts, self.max_new_tokens, self.template)
            for i, ids in zip(batch, decoded, strict=True):
                answers[i] = self.answer(asked[i][0], ids)
        return answers

    def encode(self, state: State) -> tuple[str, list[int] | None]:
        """Return (the prompt, its tokens); no tokens if the model has no room for them and a reply."""
        shown = self.examples + render_prompt(state, self.style)
        ids = encode_prompt(self.tokenizer, shown, self.template)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return shown, ids if limit is None or len(ids) <= limit - self.max_new_tokens else None

    def draft(self, state: State) -> list[int]:
        """Return the tokens that the adapter's teacher would say: a draft that only saves time; see `SlotDecoder`."""
        if not self.adapter or self.examples:
            return []
        policy = teacher_on(self.style, state.grid_size, state.mode)
        try:
            said = render_completion(state, POLICIES[policy](state), self.style, policy)
        except ValueError:  # no words for it: every move is fatal, or the snake is off the cycle
            return []
        return encode_completion(self.tokenizer, said)

    def answer(self, shown: str, ids: Sequence[int] | None) -> Answer:
        """Return the decoded tokens, without their stop token, as an answer; None: the model did not see the prompt."""
        if ids is None:
            return Answer("", shown, 0)
        # Special tokens stay visible: leaving them out would repair a reply.
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        text = text.split(EXAMPLE_END)[0] if self.examples else text
        return Answer(text, shown, min(len(ids) + 1, self.max_new_tokens))


class _InSlots:
    """A conversation with a model whose decoder takes prompts at any time.

    A prompt that was answered before is not decoded again: a snake that circles asks the same questions until it
    starves.
    """

    def __init__(self, player: LanguageModelPlayer, decoder: SlotDecoder) -> None:
        self._player, self._decoder = player, decoder
        self._shown: dict[int, str] = {}
        self._said: dict[str, Answer] = {}
        self._ready: list[tuple[int, Answer]] = []

    def ask(self, game: int, state: State) -> None:
        shown, ids = self._player.encode(state)
        if shown in self._said:
            self._ready.append((game, self._said[shown]))
        elif ids is None:
            self._ready.append((game, self._player.answer(shown, None)))
        else:
            self._shown[game] = shown
            self._decoder.add(game, ids, self._player.draft(state) if self._decoder.wants_drafts else ())

    def answered(self) -> list[tuple[int, Answer]]:
        if self._ready:
            answers, self._ready = self._ready, []
            return answers
        answers = [(game, self._player.answer(self._shown[game], ids)) for game, ids in self._decoder.finished()]
        self._said |= {self._shown[game]: answer for game, answer in answers}
        return answers


def greedy_decode(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    template: Template = "plain",
) -> list[list[int]]:
    """Return the most likely continuation of each prompt, without its stop token, by transformers' `generate`.

    Prompts and continuations are token ids. The prompts are one batch, padded on the left and cached; decoding ends
    when every row has a stop token or `max_new_tokens`. `model` is in eval mode.
    """
    import torch
    from transformers import GenerationConfig

    from snake_dist.model.decoding import before_stop

    plain = _without_peft(model)
    stops = stop_ids(plain.generation_config.eos_token_id, tokenizer, template)
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
    return [list(before_stop(row, stops)) for row in output[:, width:].tolist()]


@contextmanager
def answering(model: Any, adapter: bool) -> Iterator[None]:
    """Put the model in eval mode, with its adapter off unless `adapter`; restore both at exit."""
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
