"""What a run takes over from its checkpoint: the log before it, the weights, the optimizer.

`checkpoint/run_dir.py` decides whether a run resumes, and from which checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.checkpoints import read_names, read_tensors
from snake_dist.checkpoint.run_dir import copy_metrics
from snake_dist.cluster.world import agree
from snake_dist.files import METRICS
from snake_dist.training.adalora_ranks import rank_allocation
from snake_dist.training.metrics import Metrics
from snake_dist.zero.engine import start_engine
from snake_dist.zero.state import ADALORA, MASTER, load_masters, load_state

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from snake_dist.run.preparation import Run
    from snake_dist.training.adalora_ranks import RankAllocation


def logged_history(run: Run) -> list[Metrics]:
    """Cut metrics.jsonl after the checkpoint; return what it says up to there, without the steps. Collective."""

    def cut() -> list[dict[str, Any]]:
        source = run.output_dir
        if run.checkpoint is not None and not run.checkpoint.path.is_relative_to(run.output_dir):
            source = run.checkpoint.path.parent.parent
        return copy_metrics(source / METRICS, run.output_dir / METRICS, run.first_step if run.checkpoint else -1)

    entries = agree(run.world, cut)
    return [{name: value for name, value in entry.items() if name != "step"} for entry in entries]


def start_training(run: Run, model: PeftModel) -> tuple[Any, RankAllocation | None]:
    """The engine that trains `model`, and AdaLoRA's allocation; both continue from the run's checkpoint. Collective."""
    tensors: dict[str, torch.Tensor] = {}
    if run.checkpoint is not None:
        tensors = _broadcast_tensors(run)
        load_masters(model, tensors)
    engine = start_engine(model, run.ds_config, lora_plus_ratio=run.config.adapter.lora_plus_ratio)
    allocation = rank_allocation(engine, model)
    if run.checkpoint is not None:
        load_state(engine, tensors, run.saved["optimizer"])
        if allocation is not None:
            allocation.load_state({name: t for name, t in tensors.items() if name.startswith(ADALORA)})
    return engine, allocation


def trained_names(run: Run) -> list[str] | None:
    """Return the names of the parameters that the run's checkpoint has; None without a checkpoint. Collective."""
    checkpoint = run.checkpoint
    if checkpoint is None:
        return None
    prefix = f"{MASTER}/"
    names = agree(run.world, lambda: read_names(checkpoint))
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _broadcast_tensors(run: Run) -> dict[str, torch.Tensor]:
    """Read the checkpoint's tensors on rank 0 and send them to all: other nodes need not see the directory."""
    import torch

    checkpoint = run.checkpoint
    assert checkpoint is not None
    mine: dict[str, torch.Tensor] = {}

    def read() -> dict[str, Any]:
        mine.update(read_tensors(checkpoint))
        return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in mine.items()}

    received = {}
    for name, (shape, dtype) in agree(run.world, read).items():
        received[name] = mine[name] if mine else torch.empty(shape, dtype=dtype)
        torch.distributed.broadcast(received[name], src=0)
    return received
