"""Keys and values of many texts at once, each in a slot of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from snake_dist.accelerator import moved_at_once


class SlotCache:
    """Keys and values of `num_slots` texts of up to `capacity` tokens, for each layer. What is past a text's length
    is never read."""

    def __init__(self, num_slots: int, capacity: int) -> None:
        self.num_slots, self.capacity = num_slots, capacity
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        """(keys, values) [slots, capacity, G, D] of each layer, made when it is first met."""

    def layer(self, index: int, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer; `key` [T, G, D] is of their kind."""
        if index == len(self.layers):
            shape = (self.num_slots, self.capacity, *key.shape[1:])
            # Zeros: a product with what happens to be in memory may be NaN, which no mask hides.
            self.layers.append((key.new_zeros(shape), key.new_zeros(shape)))
        return self.layers[index]

    def resize(self, num_slots: int, capacity: int) -> None:
        """Other numbers of slots and tokens; what fits is kept."""
        slots, tokens = min(num_slots, self.num_slots), min(capacity, self.capacity)
        for i, old in enumerate(self.layers):
            new = tuple(tensor.new_zeros(num_slots, capacity, *tensor.shape[2:]) for tensor in old)
            for source, target in zip(old, new, strict=True):
                target[:slots, :tokens] = source[:slots, :tokens]
            self.layers[i] = (new[0], new[1])
        self.num_slots, self.capacity = num_slots, capacity

    def copy(self, source: int, targets: slice, num_tokens: int) -> None:
        """The first tokens of one slot into others."""
        for tensors in self.layers:
            for tensor in tensors:
                tensor[targets, :num_tokens] = tensor[source, :num_tokens].clone()

    def move(self, sources: Sequence[int], targets: Sequence[int], num_tokens: int) -> None:
        """The first tokens of some slots into others, none of which is a source."""
        if not self.layers or not sources:
            return
        device = self.layers[0][0].device
        given, taken = moved_at_once({"from": torch.tensor(sources), "to": torch.tensor(targets)}, device).values()
        for tensors in self.layers:
            for tensor in tensors:
                tensor[taken, :num_tokens] = tensor[given, :num_tokens]
