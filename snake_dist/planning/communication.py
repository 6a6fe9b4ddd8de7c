"""The messages between ranks in one optimizer step, and how long they take on given links.

The counts are those of DeepSpeed 0.19.8 as this package configures it; `tests/planning/test_communication.py`
compares them with the collectives of two real ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from snake_dist.planning.shapes import ModelSizes, Setup, shardable_bytes

_RING = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
"""How many times each of P ranks in a ring sends (and receives) (P-1)/P of the message: Thakur, Rabenseifner, Gropp,
Optimization of collective communication operations in MPICH, 2005."""


@dataclass(frozen=True)
class Collective:
    """All messages of one kind in a step."""

    what: str
    kind: str
    """all-reduce, all-gather or reduce-scatter."""
    message_bytes: float
    """Bytes of the whole tensor, the shares of all ranks together, summed over the step."""
    num_calls: int
    """Number of calls that send them."""
    in_node: bool = False
    """Whether only the ranks of one node take part."""

    def sent(self, ranks: int) -> float:
        """Return the bytes that each of `ranks` ranks sends."""
        return _RING[self.kind] * (ranks - 1) / ranks * self.message_bytes


@dataclass(frozen=True)
class Links:
    """The links between ranks."""

    ranks_per_node: int
    inside_bytes_per_s: float
    """Each way, per rank, between ranks of one node."""
    between_bytes_per_s: float
    """Each way, per node, between nodes."""
    latency_s: float
    """Seconds of one hop of a collective."""


def step_collectives(model: ModelSizes, setup: Setup, accumulation: int = 1) -> list[Collective]:
    """List the collectives of one optimizer step of `accumulation` micro-batches."""
    if setup.num_ranks == 1:
        return []
    adapter = setup.element * model.num_trainable
    num_buckets = math.ceil(model.num_trainable / setup.reduce_bucket)
    if setup.stage == 0:
        return [Collective("gradients", "all-reduce", adapter, num_buckets)]
    # Stage 1 keeps gradients on each rank until the window is full; stages 2 and 3 reduce every micro-batch's.
    rounds = 1 if setup.stage == 1 else accumulation
    if setup.stage < 3:
        return [
            # To the rank that owns each, by one reduce per owner: together a reduce-scatter.
            Collective("gradients", "reduce-scatter", adapter * rounds, (num_buckets + setup.num_ranks - 1) * rounds),
            Collective("updated adapter", "all-gather", adapter, 1),
        ]
    num_matrices = model.num_layers * len(model.linears) + 2
    # Frozen weights are gathered for the forward pass, and again for the backward pass unless they were kept.
    base = shardable_bytes(model, setup)
    kept_share = min(1.0, setup.max_live / 2 / model.num_base)
    again = base * (1 - model.num_forward_only / model.num_base) * (1 - kept_share)
    return [
        Collective("base, forward", "all-gather", base * accumulation, num_matrices * accumulation),
        Collective(
            "base, backward", "all-gather", again * accumulation, num_matrices * accumulation, setup.hpz_ranks > 0
        ),
        Collective("adapter", "all-gather", adapter * (2 - kept_share) * accumulation, num_matrices * accumulation),
        Collective("gradients", "reduce-scatter", adapter * accumulation, num_buckets * accumulation),
    ]


def seconds(collective: Collective, ranks: int, links: Links) -> float:
    """Return a lower bound of the messages' time: that of the slower of the links inside nodes and between them.

    Between nodes a node's link carries each byte once for all of its ranks (NCCL's hierarchical rings), so all nodes
    together behave like a ring of nodes.
    """
    if ranks == 1:
        return 0.0
    local = min(ranks, links.ranks_per_node)
    num_nodes = 1 if collective.in_node else math.ceil(ranks / links.ranks_per_node)
    inside = collective.sent(local) / links.inside_bytes_per_s if local > 1 else 0.0
    between = collective.sent(num_nodes) / links.between_bytes_per_s if num_nodes > 1 else 0.0
    return max(inside, between) + collective.num_calls * math.ceil(math.log2(local * num_nodes)) * links.latency_s
