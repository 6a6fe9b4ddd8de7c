"""Examples -> tensors: one packed row without padding, or a padded rectangle for models that cannot pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a position that is not trained (PyTorch's cross-entropy convention)."""

SHORTEST_SHARED_PREFIX = 16
"""Prompts that begin with fewer equal tokens are packed one after the other: sharing would cost more than it saves."""


@dataclass(frozen=True)
class Example:
    """One tokenized line: prompt, completion, end-of-sequence."""

    input_ids: np.ndarray
    """int64 [T]."""
    num_prompt_tokens: int
    """This many tokens at the start are not trained."""

    @property
    def num_loss_tokens(self) -> int:
        """Trained tokens: the completion and the end of sequence. A first token has nothing to be predicted from."""
        return len(self.input_ids) - max(self.num_prompt_tokens, 1)


@dataclass(frozen=True)
class Batch:
    """A micro-batch as the model takes it. B = 1 if packed."""

    input_ids_BT: torch.Tensor
    """int64 [B, T]."""
    labels_BT: torch.Tensor
    """int64 [B, T]: the *next* token where it is trained, else `IGNORED`."""
    attention_mask_BT: torch.Tensor | None = None
    """int64 [B, T], 1 where a token is; None if packed."""
    position_ids_BT: torch.Tensor | None = None
    """int64 [B, T], from 0 in every example of a packed row; None if padded."""
    boundaries: torch.Tensor | None = None
    """int32, where the segments of a packed row begin and end: [examples + 1], or one more with a shared prefix;
    None if padded."""
    shared_prefix_length: int = 0
    """Tokens of the first segment, with which every example of the row begins; the other segments are what
    follows in each. 0: every segment is a whole example."""

    @property
    def num_padding(self) -> int:
        """Positions that hold no token."""
        return 0 if self.attention_mask_BT is None else int((self.attention_mask_BT == 0).sum())

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """The model's keyword arguments."""
        if self.boundaries is None:
            return {"input_ids": self.input_ids_BT, "attention_mask": self.attention_mask_BT}
        return {
            "input_ids": self.input_ids_BT,
            "position_ids": self.position_ids_BT,
            "cu_seq_lens_q": self.boundaries,
            "shared_prefix_length": self.shared_prefix_length,
        }

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the boundaries stay on the CPU, where they are read."""
        moved = {
            name: value.to(device) for name, value in vars(self).items() if name.endswith("_BT") and value is not None
        }
        return replace(self, **moved)


def shifted_labels(example: Example) -> np.ndarray:
    """int64 [T]: at each position the token that should come next, or `IGNORED`. Masked by length, never by
    token id: the padding token is often the end-of-sequence token too."""
    labels = np.full(len(example.input_ids), IGNORED, dtype=np.int64)
    first = max(example.num_prompt_tokens, 1)
    labels[first - 1 : -1] = example.input_ids[first:]
    return labels


def shared_prefix_length(examples: Sequence[Example]) -> int:
    """Number of tokens with which all prompts begin, the last token of a prompt not counted; 0 if it is small.

    The last token of a prompt predicts the first trained one, so it belongs to its own example.
    """
    shortest = min(example.num_prompt_tokens for example in examples) - 1
    if len(examples) < 2 or shortest < SHORTEST_SHARED_PREFIX:
        return 0
    first = examples[0].input_ids[:shortest]
    equal = np.logical_and.reduce([example.input_ids[:shortest] == first for example in examples])
    length = shortest if equal.all() else int(equal.argmin())
    return length if length >= SHORTEST_SHARED_PREFIX else 0


def pack(examples: Sequence[Example]) -> Batch:
    """All examples back to back in one row; positions restart in each. What all prompts begin with comes once."""
    import torch

    shared = shared_prefix_length(examples)
    lengths = [len(example.input_ids) - shared for example in examples]
    prefix = examples[0].input_ids[:shared]
    row = [
        np.concatenate([prefix, *(example.input_ids[shared:] for example in examples)]),
        np.concatenate([np.arange(shared), *(np.arange(shared, shared + length) for length in lengths)]),
        np.concatenate([np.full(shared, IGNORED), *(shifted_labels(example)[shared:] for example in examples)]),
    ]
    ids, positions, labels = (torch.from_numpy(values.astype(np.int64))[None] for values in row)
    segments = [shared, *lengths] if shared else lengths
    boundaries = torch.tensor([0, *np.cumsum(segments)], dtype=torch.int32)
    return Batch(ids, labels, position_ids_BT=positions, boundaries=boundaries, shared_prefix_length=shared)


def pad(examples: Sequence[Example]) -> Batch:
    """One example a row, padded on the right. The padding's token id (0) is never attended to nor trained."""
    import torch

    shape = (len(examples), max(len(example.input_ids) for example in examples))
    ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length] = example.input_ids
        mask[row, :length] = 1
        labels[row, :length] = shifted_labels(example)
    return Batch(torch.from_numpy(ids), torch.from_numpy(labels), attention_mask_BT=torch.from_numpy(mask))
