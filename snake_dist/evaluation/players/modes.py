"""Other ways to ask a model. Each is a player of its own in reports: a gain in format is no gain in play.

Few-shot: solved positions of training games stand before the prompt. Constrained: greedy decoding under the grammar
`Move: UP`, `Move: DOWN`, `Move: LEFT` or `Move: RIGHT`: the four differ first in one token, and the likeliest of those
four tokens decides. So every reply is valid, and there is no reasoning before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from snake_dist.data.templates import SEPARATOR, encode_prompt
from snake_dist.errors import InputError
from snake_dist.evaluation.players.language_model import EXAMPLE_END, LanguageModelPlayer, answering
from snake_dist.evaluation.players.protocol import Answer
from snake_dist.game.board import Move, State
from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_completion, render_prompt, teacher_on

STEPS_BETWEEN_EXAMPLES = 23
MAX_ROWS = 64
"""Positions asked at once by a `ConstrainedPlayer`, which has the logits of whole prompts in memory."""


def with_examples(player: LanguageModelPlayer, num_examples: int, grid_size: int, mode: str) -> LanguageModelPlayer:
    """Return the player with this many positions before each prompt, each from another training game of the teacher."""
    teacher = teacher_on(player.style, grid_size, mode)
    decide = POLICIES[teacher]
    shown = []
    for seed in range(num_examples):
        state = new_game(grid_size, seed, mode)
        for _ in range(STEPS_BETWEEN_EXAMPLES * (seed + 1)):
            after = step(state, decide(state))
            state = state if after.end is not None else after
        completion = render_completion(state, decide(state), player.style, teacher)
        shown.append(render_prompt(state, player.style) + SEPARATOR + completion + EXAMPLE_END)
    return replace(player, examples="".join(f"{example}\n" for example in shown))


@dataclass(frozen=True)
class ConstrainedPlayer:
    """A model that only chooses among the four moves; see the top of this file."""

    player: LanguageModelPlayer

    def replies(self, states: Sequence[State]) -> list[str]:
        return [answer.text for answer in self.answers(states)]

    def answers(self, states: Sequence[State]) -> list[Answer]:
        """Return one answer for each state; its tokens are those of the chosen reply."""
        answers = []
        rows = min(self.player.batch_size, MAX_ROWS)
        with answering(self.player.model, self.player.adapter):
            for start in range(0, len(states), rows):
                answers += self._choose(states[start : start + rows])
        return answers

    def _choose(self, states: Sequence[State]) -> list[Answer]:
        import torch

        model, tokenizer = self.player.model, self.player.tokenizer
        prompts = [render_prompt(state, self.player.style) for state in states]
        choices = [f"Move: {move.value}" for move in Move]
        endings = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in choices]
        shared = next(i for i, tokens in enumerate(zip(*endings, strict=False)) if len({*tokens}) > 1)
        deciding = [ending[shared] for ending in endings]
        if len({*deciding}) < len(deciding):
            raise InputError(f"--constrained: this tokenizer does not tell {', '.join(choices)} apart in one token")
        asked = [encode_prompt(tokenizer, prompt, self.player.template) for prompt in prompts]
        rows = [ids + endings[0][:shared] for ids in asked]
        width = max(map(len, rows))
        # Padded on the right: causal attention keeps it from what stands before it.
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=next(model.parameters()).device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=ids.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        last = [len(row) - 1 for row in rows]
        best = logits[range(len(rows)), last][:, deciding].argmax(-1).tolist()
        return [Answer(choices[i], prompt, len(endings[i])) for i, prompt in zip(best, prompts, strict=True)]
