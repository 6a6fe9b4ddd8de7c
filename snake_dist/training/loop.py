"""The training loop, the same for every number of ranks, ZeRO stage and dtype."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from snake_dist.data.dataset import TokenizedDataset
from snake_dist.training.loss import forward_trained, loss_sum, naming_the_batch
from snake_dist.training.metrics import LOSS, LOSS_TOKENS_PER_S, TOKENS_PER_S, Metrics
from snake_dist.training.not_finite import NotFinite, SkippedSteps
from snake_dist.training.schedule import learning_rate_at
from snake_dist.training.trainer import Trainer
from snake_dist.training.utilization import UsageMeter
from snake_dist.zero.engine import (
    backward,
    gradient_norm,
    peak_memory_gib,
    set_learning_rate,
    take_step,
    was_skipped,
)

if TYPE_CHECKING:
    import torch


def run_steps(
    trainer: Trainer,
    *,
    log: Callable[[int, Metrics], None],
    evaluate: Callable[[int], Metrics],
    after_step: Callable[[int, Metrics], bool] = lambda _step, _held_out: False,
    first_step: int = 0,
    on_not_finite: Callable[[NotFinite], None] | None = None,
) -> None:
    """Run the optimizer steps from `first_step` (0: the run's first) to the last of the stream.

    Call `log(step, metrics)` on every rank with equal numbers, `evaluate(steps done)` on every rank together and after
    the last step in any case, `after_step(steps done, held-out metrics or {})` on every rank together when all is
    logged; where that returns True (on all ranks alike) the run stops. A step whose gradient is not finite on any rank
    is skipped on all, and `on_not_finite`, on every rank, gets the reason of the first; see `SkippedSteps`. Raises
    InputError, on all ranks alike, after too many of them in a row.
    """
    engine, dataset, stream, config = trainer.engine, trainer.dataset, trainer.stream, trainer.config
    window, meter = _Window(), UsageMeter(engine.module, engine.device)
    skips = SkippedSteps(trainer, on_not_finite)
    engine.train()
    for step in range(first_step, stream.num_steps):
        started = time.perf_counter()
        learning_rate = learning_rate_at(
            step, peak=config.learning_rate, num_steps=stream.num_steps, warmup_share=config.warmup_share
        )
        set_learning_rate(engine, learning_rate)
        ids = stream.step_examples(step)
        local = training_step(trainer, ids, step=step, meter=meter)
        window.num_tokens += int(dataset.lengths[ids].sum())
        window.num_loss_tokens += int(dataset.num_loss_tokens[ids].sum())

        is_last = step + 1 == stream.num_steps
        is_logged = is_last or (step + 1) % config.log_every == 0
        skipped = was_skipped(engine)
        skips.count(step, ids, local[0], is_skipped=skipped)
        if is_logged:
            measured = step_metrics(engine, dataset, ids, local) | ({"train/skipped": 1.0} if skipped else {})
            skips.last_gradient_norm = measured.get("train/grad_norm", skips.last_gradient_norm)
            if trainer.allocation is not None:
                measured |= trainer.allocation.metrics()
        window.seconds += time.perf_counter() - started
        if is_logged:
            num_seen = min((step + 1) * config.global_batch_size, stream.num_examples_total)
            schedule = {"train/learning_rate": learning_rate, "train/epoch": num_seen / len(stream.examples)}
            log(step + 1, measured | schedule | window.rates() | meter.metrics(window.seconds))
            window = _Window()
        held_out: Metrics = {}
        if is_last or (config.eval_every and (step + 1) % config.eval_every == 0):
            held_out = evaluate(step + 1)
            engine.train()
            log(step + 1, held_out)
        if after_step(step + 1, held_out):
            return


def training_step(trainer: Trainer, ids: np.ndarray, *, step: int, meter: UsageMeter | None = None) -> torch.Tensor:
    """Run one optimizer step on the examples `ids`, in train mode; this rank computes its micro-batches of them.

    The loss is the cross-entropy summed over all trained tokens of the step, divided once by their number over
    all ranks and micro-batches. Returns this rank's (loss sum, padded positions), float64 [2].
    """
    import torch

    engine, dataset, share, allocation = trainer.engine, trainer.dataset, trainer.share, trainer.allocation
    num_loss_tokens = int(dataset.num_loss_tokens[ids].sum())
    local = torch.zeros(2, dtype=torch.float64, device=engine.device)
    batches = trainer.ahead.get(step) if engine.device.type == "cuda" else trainer.batches(dataset, ids)
    for index, (is_empty, batch) in enumerate(batches):
        # Same micro-batch, same dropout, on however many ranks: its number within the step decides.
        torch.manual_seed(trainer.dropout_seed(step, index))
        with naming_the_batch(batch, share.rank):
            logits_KV, labels_K, _ = forward_trained(engine, batch)
            # An empty micro-batch takes part with weight 0: the other ranks wait for its gradients.
            micro_loss = loss_sum(logits_KV, labels_K) * (0.0 if is_empty else 1.0)
            # DeepSpeed averages over ranks and over micro-batches: undo both, divide by the global count.
            backward(engine, micro_loss * (share.world_size * share.accumulation / num_loss_tokens))
        is_last = index + 1 == share.accumulation
        if allocation is not None and is_last:
            allocation.before_step(step + 1)
        take_step(engine)
        if allocation is not None and is_last:
            allocation.after_step(step + 1)
        if meter is not None and not is_empty:
            meter.count(batch)
        local[0] += micro_loss.detach()
        local[1] += 0 if is_empty else batch.num_padding
    return local


def step_metrics(engine: Any, dataset: TokenizedDataset, ids: np.ndarray, local: torch.Tensor) -> Metrics:
    """Return loss, gradient norm, padding and memory of a step over all ranks; the same numbers on each.

    A loss or gradient norm that is not finite is left out.
    """
    import torch

    # The sum over ranks of (loss sum, padding) and every rank's peak memory, in one collective.
    mine = torch.tensor([*local.tolist(), peak_memory_gib(engine.device)], dtype=torch.float64)  # on the CPU: gloo
    ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(ranks, mine)
    table = torch.stack(ranks)
    total_loss, num_padding = table[:, 0].sum().item(), table[:, 1].sum().item()
    loss = total_loss / int(dataset.num_loss_tokens[ids].sum())
    norm = gradient_norm(engine)
    return {
        **({LOSS: loss} if math.isfinite(loss) else {}),
        **({"train/grad_norm": norm} if norm is not None and math.isfinite(norm) else {}),
        **({"train/skipped_steps": float(engine.skipped_steps)} if engine.fp16_enabled() else {}),
        "train/padding_share": num_padding / (num_padding + int(dataset.lengths[ids].sum())),
        **{f"train/peak_memory_gib/rank_{rank}": row[2].item() for rank, row in enumerate(table)},
    }


@dataclass
class _Window:
    """Tokens and seconds since the last logged step; evaluations do not count."""

    num_tokens: int = 0
    num_loss_tokens: int = 0
    seconds: float = 0.0

    def rates(self) -> Metrics:
        return {
            TOKENS_PER_S: self.num_tokens / self.seconds,
            LOSS_TOKENS_PER_S: self.num_loss_tokens / self.seconds,
        }
