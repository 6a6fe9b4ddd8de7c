"""The ZeRO stage to recommend, and the largest micro-batch that fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snake_dist.planning.memory import rank_memory
from snake_dist.planning.shapes import MicroBatch, ModelSizes, Setup, base_bytes

GIB = 2**30
MOST_EXAMPLES = 4096
"""The search for the largest micro-batch stops here."""


@dataclass(frozen=True)
class Choice:
    """A setup, and why it was chosen."""

    setup: Setup
    reason: str
    fits: bool


def largest_micro_batch(
    model: ModelSizes, setup: Setup, batch: MicroBatch, memory: float, accumulation: int = 1
) -> int:
    """Return the largest number of examples of `batch`'s length that fit into `memory` bytes; 0 if not one does."""

    def fits(num_examples: int) -> bool:
        needed = rank_memory(model, setup, replace(batch, num_examples=num_examples), accumulation)
        return needed.peak <= memory

    low, high = 0, 1
    while high <= MOST_EXAMPLES and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def recommend(model: ModelSizes, setup: Setup, batch: MicroBatch, memory: float) -> Choice:
    """Return the setup that fits and costs the fewest messages.

    With an adapter, the optimizer's state is small and the frozen base is large: sharding the optimizer (stages 1, 2)
    saves little and costs little, and sharding the base (stage 3) gathers it again for every micro-batch. So the base
    stays whole as long as it fits; then gradient checkpointing is cheaper than gathering; then stage 3; then offload.
    """
    base = base_bytes(model, setup) / GIB
    stage = 0 if setup.num_ranks == 1 else 2
    optimizer = 12 * model.num_trainable / GIB
    saved = optimizer * (1 - 1 / setup.num_ranks)
    whole = f"the base ({base:.2f} GiB{' in NF4' if setup.nf4 else ''}) fits on every rank beside a micro-batch"
    zero2 = f"{whole}: ZeRO 0 to 2 send only the adapter's gradients; 2 also spreads {optimizer:.2f} GiB of optimizer"
    gathered = "gathers it anew for every micro-batch, so prefer large micro-batches to accumulation"
    candidates = [
        (
            replace(setup, stage=stage),
            f"{whole}, and with one rank there is nothing to share" if stage == 0 else f"{zero2} (saves {saved:.2f})",
        ),
        (
            replace(setup, stage=stage, gradient_checkpointing=True),
            f"{whole} once activations are recomputed (--gradient-checkpointing): "
            "half as much computing again, but no gathers",
        ),
    ]
    if setup.num_ranks > 1:
        shard = f"the base ({base:.2f} GiB) does not fit beside one micro-batch; ZeRO-3 shares it out and {gathered}"
        near = "; backward gathers stay in the node (hpZ)" if setup.hpz_ranks else ""
        three = replace(setup, stage=3)
        recomputed = replace(three, gradient_checkpointing=True)
        candidates += [
            (three, shard + near),
            (recomputed, shard + ", activations recomputed" + near),
            (replace(recomputed, hpz_ranks=0), shard + ", activations recomputed"),
        ]
        offloaded = replace(recomputed, offload_optimizer=True, offload_parameters=True, hpz_ranks=0)
        candidates.append((offloaded, "only with shards and optimizer in host memory: slow"))
    for candidate, reason in candidates:
        if rank_memory(model, candidate, batch).peak <= memory:
            return Choice(candidate, reason, fits=True)
    needed = rank_memory(model, candidates[-1][0], batch).peak / GIB
    reason = f"nothing here fits: the leanest way needs {needed:.2f} GiB of {memory / GIB:.2f}"
    return Choice(candidates[-1][0], reason, fits=False)
