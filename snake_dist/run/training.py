"""The training part of a run: base model and new adapter, then all steps of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.saved_adapter import gather_adapter, init_adapter
from snake_dist.cluster.world import gather
from snake_dist.data.batching import total_over
from snake_dist.data.packing import pack, pad
from snake_dist.model import adapters, base
from snake_dist.model.attention import use_packed_attention
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops
from snake_dist.run.games import games_in_training
from snake_dist.run.preparation import Run
from snake_dist.run.session import Session
from snake_dist.training.held_out import held_out_metrics
from snake_dist.training.loop import Collate, run_steps
from snake_dist.training.metrics import Metrics, MetricsLog
from snake_dist.training.rank_allocation import rank_allocation
from snake_dist.zero.config import zero_stage
from snake_dist.zero.engine import start_engine

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def load_model(run: Run) -> tuple[PeftModel, Collate]:
    """The base model with a new adapter, and how its batches are to be built: packed where that is exact."""
    import torch

    config = run.config
    device = base.device_for(run.world.local_rank)
    model = base.load_base(
        run.base_location,
        run.dtype,
        trust_remote_code=config.model.trust_remote_code,
        quantization=adapters.QUANTIZATION.get(config.adapter.adapter),
        device=device,
    )
    collate = pack if use_packed_attention(model) else pad
    torch.manual_seed(config.training.seed)
    model = adapters.attach(model, config.adapter, num_steps=run.num_steps)
    if config.adapter.init_adapter is not None and run.checkpoint is None:
        init_adapter(model, Path(config.adapter.init_adapter).expanduser())
    use_shared_dropout(model)
    if zero_stage(run.ds_config) < 3:
        use_fast_ops(model)
    if config.model.gradient_checkpointing:
        # Not reentrant: the reentrant kind gives LoRA no gradients, the base's inputs needing none.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, collate


def train_model(
    run: Run, model: PeftModel, collate: Collate, metrics: MetricsLog | None, session: Session
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train `model`; returns the training part of the summary, and the adapter's tensors as they are saved."""
    session.load_model(model)
    engine = start_engine(model, run.ds_config, lora_plus_ratio=run.config.adapter.lora_plus_ratio)
    allocation = rank_allocation(engine, model)
    session.load_engine(engine, allocation)
    held_out = partial(held_out_metrics, engine, run.data.eval_dataset, run.data.eval_examples, run.share, collate)
    play = games_in_training(run, engine, session)
    history = list(session.history)
    base_bytes = gather(base.base_bytes(model), run.world)

    def log(step: int, values: Metrics) -> None:
        history.append(values)
        if metrics is not None:
            metrics.log(step, values)

    if not session.history:
        log(0, {f"model/base_gib/rank_{rank}": held / 2**30 for rank, held in enumerate(base_bytes)})
    run_steps(
        engine,
        run.data.dataset,
        run.stream,
        run.share,
        run.config.training,
        num_steps=run.num_steps,
        collate=collate,
        log=log,
        evaluate=lambda step: held_out() | play(step),
        allocation=allocation,
        after_step=session.after_step,
        first_step=session.first_step,
    )
    session.end_training()
    tensors = gather_adapter(model)
    engine.destroy()
    if metrics is not None:
        metrics.close_bar()
    speeds = [values for values in history if "train/loss" in values]
    if not speeds:  # stopped before the first logged step
        return {}, tensors
    training = {
        "num_steps": run.num_steps,
        "num_tokens": total_over(run.stream, run.data.dataset.lengths, run.data.training.num_tokens),
        "num_loss_tokens": total_over(run.stream, run.data.dataset.num_loss_tokens, run.data.training.num_loss_tokens),
        "seconds": session.seconds,
        "base_bytes_per_rank": base_bytes,
        "first_loss": speeds[0]["train/loss"],
        "tokens_per_s": median(values["train/tokens_per_s"] for values in speeds),
        "loss_tokens_per_s": median(values["train/loss_tokens_per_s"] for values in speeds),
    }
    for values in history:
        training |= values
    return training, tensors
