"""Steps that are skipped because a number is not finite: when that ends the run, and why the first one was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from snake_dist.errors import InputError
from snake_dist.training.loss import forward_trained, loss_sum
from snake_dist.training.trainer import Trainer
from snake_dist.zero.parameters import loss_scale

if TYPE_CHECKING:
    import torch


MAX_SKIPPED = 5
"""The run fails after this many steps in a row with a gradient that is not finite."""
MAX_SKIPPED_FP16 = 50
"""The same in fp16, where the loss scaler finds its scale by skipping steps."""


class NotFinite(TypedDict):
    """What not_finite.json holds."""

    step: int
    """From 1."""
    module: str | None
    """The first whose output is not finite while all earlier ones are; None: all are, and the backward pass it was."""
    rank: int | None
    micro_batch: int | None
    """Of that rank, from 0."""
    examples: list[int]
    """Ids of that micro-batch; without a module, of the whole step."""
    places: list[str]
    """file:line of each of them."""
    losses: list[list[float | None]]
    """Of each rank, of each micro-batch: the mean over its trained tokens; None where it is not finite."""
    loss_scale: float
    """Behind the step; 1 except in fp16."""
    last_gradient_norm: float | None
    """The last one that was logged."""


class SkippedSteps:
    """Counts the skipped steps of a run; every rank calls it alike.

    Says once why: at the first skipped step, but in fp16 only where the loss itself is not finite, where the loss
    scale has come down to 1, or where the run is about to fail. A loss scale on its way down is no fault.
    """

    def __init__(self, trainer: Trainer, report: Callable[[NotFinite], None] | None) -> None:
        """`report` gets the reason on every rank; None: it has been said."""
        self._trainer, self._report = trainer, report
        self._num_skipped = 0
        self.last_gradient_norm: float | None = None

    def count(self, step: int, ids: np.ndarray, local_loss: torch.Tensor, *, is_skipped: bool) -> None:
        """Note whether step `step` (from 0) was skipped. Raises InputError, on all ranks, after too many in a row."""
        if not is_skipped:
            self._num_skipped = 0
            return
        self._num_skipped += 1
        engine, config = self._trainer.engine, self._trainer.config
        is_last = self._num_skipped == (MAX_SKIPPED_FP16 if engine.fp16_enabled() else MAX_SKIPPED)
        if self._report is not None and (is_last or not self._is_scaling(local_loss)):
            report, self._report = self._report, None
            report(explain(self._trainer, step, ids, self.last_gradient_norm))
        if is_last:
            raise InputError(
                f"step {step + 1}: loss or gradient was not finite in {self._num_skipped} steps in a row, all skipped: "
                f"lower --learning-rate {config.learning_rate:g}"
            )

    def _is_scaling(self, local_loss: torch.Tensor) -> bool:
        """Whether only the fp16 loss scale was too high."""
        import torch

        engine = self._trainer.engine
        if not engine.fp16_enabled():
            return False
        is_finite = torch.tensor([bool(local_loss.isfinite())], dtype=torch.int32)  # on the CPU: gloo
        torch.distributed.all_reduce(is_finite, torch.distributed.ReduceOp.MIN)
        return bool(is_finite.item()) and loss_scale(engine) > 1


def explain(trainer: Trainer, step: int, ids: np.ndarray, last_gradient_norm: float | None) -> NotFinite:
    """Repeat the forward passes of step `step` (from 0) and return where numbers stop being finite.

    Collective: under ZeRO-3 every pass gathers weights. The next step sets its own seeds, so nothing of it changes.
    """
    import torch

    engine, share, dataset = trainer.engine, trainer.share, trainer.dataset
    first: tuple[int, str] | None = None
    losses: list[float | None] = []
    for index, (is_empty, batch) in enumerate(trainer.batches(dataset, ids)):
        torch.manual_seed(trainer.dropout_seed(step, index))
        with torch.no_grad(), _first_not_finite(engine.module) as found:
            logits_KV, labels_K, _ = forward_trained(engine, batch)
            loss = float(loss_sum(logits_KV, labels_K)) / max(1, len(labels_K))
        losses.append(loss if np.isfinite(loss) else None)
        if found and first is None and not is_empty:
            first = (index, found[0])
    own = [micro_ids.tolist() for micro_ids in share.micro_batches(ids, dataset.lengths)]
    ranks: list[Any] = [None] * share.world_size
    torch.distributed.all_gather_object(ranks, (first, losses, own))
    hits = [(hit[0], rank, hit[1]) for rank, (hit, _, _) in enumerate(ranks) if hit is not None]
    micro_batch, rank, module = min(hits) if hits else (None, None, None)
    examples = ids.tolist() if rank is None else ranks[rank][2][micro_batch]
    return {
        "step": step + 1,
        "module": module,
        "rank": rank,
        "micro_batch": micro_batch,
        "examples": examples,
        "places": [dataset.place(example) for example in examples],
        "losses": [of_rank for _, of_rank, _ in ranks],
        "loss_scale": loss_scale(engine),
        "last_gradient_norm": last_gradient_norm,
    }


def described(found: NotFinite, file: str) -> str:
    """Return the one line that says it; `file` has the rest."""
    places, norm = found["places"], found["last_gradient_norm"]
    if found["module"] is None:
        where = f"every module's output is finite, so the backward pass it was; {len(places)} examples"
    else:
        shown = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        where = f"first in the output of {found['module']}, rank {found['rank']}, on {shown}"
    return (
        f"step {found['step']}: not finite, and skipped: {where}; loss scale {found['loss_scale']:g}, gradient norm "
        f"before {'unknown' if norm is None else format(norm, '.4g')}; all of it in {file}"
    )


@contextmanager
def _first_not_finite(model: torch.nn.Module) -> Iterator[list[str]]:
    """Yield a list that gets the names of the modules whose output is not finite, as they end: the innermost first."""
    names: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if not names and not all(bool(tensor.isfinite().all()) for tensor in _floats(output)):
                names.append(name)

        return hook

    handles = [
        module.register_forward_hook(watch(name.removeprefix("base_model.model.") or "the whole model"))
        for name, module in model.named_modules()
    ]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def _floats(output: Any) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        yield from (tensor for value in output.values() for tensor in _floats(value))
    elif isinstance(output, (list, tuple)):
        yield from (tensor for value in output for tensor in _floats(value))
