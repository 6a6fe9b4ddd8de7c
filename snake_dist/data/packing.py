"""Examples -> tensors: one packed row without padding, or a padded rectangle for models that cannot pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from snake_dist.accelerator import moved_at_once
from snake_dist.segments import Segments

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""Label of a position that is not trained (PyTorch's cross-entropy convention)."""

SHORTEST_SHARED_PREFIX = 16
"""Prompts that begin with fewer equal tokens are packed one after the other: sharing would cost more than it saves."""


@dataclass(frozen=True)
class Example:
    """One tokenized line: prompt, completion, end-of-sequence; or a conversation of several such turns."""

    input_ids: np.ndarray
    """int64 [T]."""
    num_prompt_tokens: int
    """This many tokens at the start are not trained."""
    is_skipped: np.ndarray | None = None
    """bool [T]: the tokens of later prompts, which are not trained either; None if there are none."""

    @property
    def num_loss_tokens(self) -> int:
        """Trained tokens: the completion and the end of sequence. A first token has nothing to be predicted from."""
        num_skipped = 0 if self.is_skipped is None else int(self.is_skipped.sum())
        return len(self.input_ids) - max(self.num_prompt_tokens, 1) - num_skipped


@dataclass(frozen=True)
class Batch:
    """A micro-batch as the model takes it. B = 1 if packed."""

    input_ids_BT: torch.Tensor
    """int64 [B, T]."""
    columns_C: torch.Tensor
    """int64 [C]: the columns in which any row trains a token."""
    labels_K: torch.Tensor
    """int64 [K]: the token that comes next after each of the K trained positions, row by row."""
    examples_K: torch.Tensor
    """int64 [K]: the example that each of them belongs to."""
    places_K: torch.Tensor
    """int64 [K]: the place of its column in `columns_C`."""
    attention_mask_BT: torch.Tensor | None = None
    """int64 [B, T], 1 where a token is; None if packed."""
    position_ids_BT: torch.Tensor | None = None
    """int64 [B, T], from 0 in every example of a packed row; None if padded."""
    segments: Segments | None = None
    """Where the examples of a packed row lie; None if padded."""
    num_padding: int = 0
    """Positions that hold no token."""

    @property
    def num_examples(self) -> int:
        if self.segments is None:
            return len(self.input_ids_BT)
        return len(self.segments.boundaries) - (2 if self.segments.prefix else 1)

    @property
    def inputs(self) -> dict[str, Any]:
        """The model's keyword arguments."""
        if self.segments is None:
            return {"input_ids": self.input_ids_BT, "attention_mask": self.attention_mask_BT}
        return {"input_ids": self.input_ids_BT, "position_ids": self.position_ids_BT, "segments": self.segments}

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; a CUDA device gets it by one copy, which does not wait."""
        import torch

        if self.input_ids_BT.device == device:
            return self
        own = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        of_segments = self.segments.tensors if self.segments is not None else {}
        moved = moved_at_once(own | of_segments, device)
        segments = self.segments and replace(self.segments, **{name: moved[name] for name in of_segments})
        return replace(self, segments=segments, **{name: moved[name] for name in own})


def shifted_labels(example: Example) -> np.ndarray:
    """int64 [T]: at each position the token that should come next, or `IGNORED`. Masked by length, never by
    token id: the padding token is often the end-of-sequence token too."""
    labels = np.full(len(example.input_ids), IGNORED, dtype=np.int64)
    first = max(example.num_prompt_tokens, 1)
    labels[first - 1 : -1] = example.input_ids[first:]
    if example.is_skipped is not None:
        labels[:-1][example.is_skipped[1:]] = IGNORED
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
    ids, positions = (torch.from_numpy(values.astype(np.int64))[None] for values in row[:2])
    segments = Segments.of([0, *np.cumsum([shared, *lengths] if shared else lengths)], shared)
    trained = _trained(row[2][None])
    trained["examples_K"] = np.repeat(np.arange(len(examples)), [example.num_loss_tokens for example in examples])
    return Batch(ids, **_tensors(trained), position_ids_BT=positions, segments=segments)


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
    return Batch(
        torch.from_numpy(ids),
        **_tensors(_trained(labels)),
        attention_mask_BT=torch.from_numpy(mask),
        num_padding=int((mask == 0).sum()),
    )


def _trained(labels_BT: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of a `Batch` that say what is trained, where a row is an example."""
    is_trained_BT = labels_BT != IGNORED
    columns_C = np.flatnonzero(is_trained_BT.any(axis=0))
    rows_K, places_K = np.nonzero(is_trained_BT[:, columns_C])
    labels_K = labels_BT[rows_K, columns_C[places_K]]
    return {"columns_C": columns_C, "labels_K": labels_K, "examples_K": rows_K, "places_K": places_K}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(array.astype(np.int64, copy=False)) for name, array in arrays.items()}
