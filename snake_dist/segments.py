"""Where the examples of a packed row lie: computed once on the host, read by the attention of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Segments:
    """The segments of a packed row [1, T]: whole examples, or a prefix that all share and what follows it in each."""

    boundaries: tuple[int, ...]
    """0 = b0 < b1 < ... = T: segment i holds the tokens b_i to b_(i+1)."""
    prefix: int
    """Tokens of the first segment, which the later segments see before their own; 0: they see only themselves."""
    query_ends: torch.Tensor
    """int32 [segments + 1]: `boundaries` for a variable-length kernel."""
    key_ends: torch.Tensor
    """int32 [segments + 1]: the same for keys, each later segment preceded by its copy of the prefix."""
    longest_query: int
    longest_keys: int
    key_tokens: torch.Tensor | None
    """int64 [keys]: the token whose key stands at each place; None without a prefix."""
    own_places: torch.Tensor | None
    """int64 [T]: the place of each token's own key."""
    copy_places: torch.Tensor | None
    """int64 [(segments - 1) * prefix]: the places of the prefix's copies, segment by segment."""

    @classmethod
    def of(cls, boundaries: Sequence[int], prefix: int = 0) -> Segments:
        """The segments between `boundaries`; the first one is a prefix of the others if it is `prefix` tokens long."""
        import torch

        ends = np.asarray(boundaries, dtype=np.int64)
        lengths = np.diff(ends)
        keys = lengths + prefix * (np.arange(len(lengths)) > 0)
        key_ends = np.concatenate([[0], keys.cumsum()])
        key_tokens = own_places = copy_places = None
        if prefix:
            own = np.arange(ends[-1]) + prefix * np.repeat(np.arange(len(lengths)), lengths)
            copies = (key_ends[1:-1, None] + np.arange(prefix)).ravel()
            tokens = np.empty(key_ends[-1], dtype=np.int64)
            tokens[own] = np.arange(ends[-1])
            tokens[copies] = np.tile(np.arange(prefix), len(lengths) - 1)
            key_tokens, own_places, copy_places = (torch.from_numpy(places) for places in (tokens, own, copies))
        return cls(
            boundaries=tuple(ends.tolist()),
            prefix=prefix,
            query_ends=torch.from_numpy(ends.astype(np.int32)),
            key_ends=torch.from_numpy(key_ends.astype(np.int32)),
            longest_query=int(lengths.max()),
            longest_keys=int(keys.max()),
            key_tokens=key_tokens,
            own_places=own_places,
            copy_places=copy_places,
        )

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What kernels read, by field."""
        import torch

        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def to(self, device: torch.device | str) -> Segments:
        """The same segments for kernels on `device`."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors.items()})
