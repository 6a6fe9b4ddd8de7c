"""The training of a run: base model and new adapter, then all steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

from snake_dist.checkpoint.plain_lora import adapter_start
from snake_dist.checkpoint.saved_adapter import init_adapter
from snake_dist.cluster.world import agree, gather
from snake_dist.data.batching import total_over
from snake_dist.data.packing import pack, pad
from snake_dist.files import NOT_FINITE, PROFILE, write_json_atomically
from snake_dist.model import adapters, base
from snake_dist.model.compiled_layers import compile_layers
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops, use_fused_ops
from snake_dist.run.adapter_dir import Trained, rehearse_save
from snake_dist.run.games import games_in_training
from snake_dist.run.preparation import Run
from snake_dist.run.profile import profiled, profiled_steps
from snake_dist.run.restore import start_training, trained_names
from snake_dist.run.session import Session
from snake_dist.run.summary import TrainingSummary
from snake_dist.training.held_out_metrics import held_out_metrics
from snake_dist.training.loop import run_steps
from snake_dist.training.metrics import LOSS, LOSS_TOKENS_PER_S, TOKENS_PER_S, Metrics, SilentLog
from snake_dist.training.not_finite import NotFinite, described
from snake_dist.training.trainer import Collate, Trainer
from snake_dist.zero.config import zero_stage
from snake_dist.zero.engine import end_engine
from snake_dist.zero.parameters import frozen_bytes, gather_adapter

if TYPE_CHECKING:
    from peft import PeftModel


def load_model(run: Run) -> tuple[PeftModel, Collate]:
    """Return the base model with a new adapter, and what builds its batches: packed where that is exact."""
    import torch

    from snake_dist.model.decoding import has_slots
    from snake_dist.model.packing_proof import use_packed_attention

    config = run.config
    # ZeRO-3 shards it from the host, weight by weight: it need not fit on one GPU.
    device = torch.device("cpu") if zero_stage(run.ds_config) == 3 else base.own_device()
    model = base.load_base(
        run.base_location,
        run.dtype,
        trust_remote_code=config.model.trust_remote_code,
        quantization=adapters.QUANTIZATION.get(config.adapter.adapter),
        device=device,
    )
    if config.play.eval_games:
        has_slots(model)  # found out while the weights are whole
    collate = pack if use_packed_attention(model, base.own_device()) else pad
    torch.manual_seed(config.training.seed)
    model = adapters.attach(model, config.adapter, num_steps=run.num_steps, trained=trained_names(run))
    if config.adapter.init_adapter is not None and run.checkpoint is None:
        init_adapter(model, Path(config.adapter.init_adapter).expanduser())
    use_shared_dropout(model)
    if zero_stage(run.ds_config) < 3:  # ZeRO-3's hooks gather the weights of PEFT's own layers
        use_fast_ops(model)
    if config.model.compile_layers:
        compile_layers(model)
    else:
        use_fused_ops(model)
    if config.model.gradient_checkpointing:
        # Not reentrant: the reentrant kind gives LoRA no gradients, the base's inputs needing none.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, collate


def train_model(run: Run, model: PeftModel, collate: Collate, metrics: SilentLog, session: Session) -> Trained:
    """Train `model`, from the run's checkpoint if there is one, to the last step or until the run is asked to stop."""
    start = adapter_start(model)
    engine, allocation = start_training(run, model)
    rehearse_save(run, model, start)
    session.begin_training(engine, allocation, metrics)
    trainer = Trainer(engine, run.data.dataset, run.stream, run.share, collate, run.config.training, allocation)
    held_out = partial(held_out_metrics, trainer, run.data.eval_dataset, run.data.eval_examples)
    play = games_in_training(run, engine, session)
    history = list(session.history)
    base_bytes = gather(frozen_bytes(model), run.world)

    def log(step: int, values: Metrics) -> None:
        history.append(values)
        metrics.log(step, values)

    if not session.history:
        log(0, {f"model/base_gib/rank_{rank}": held / 2**30 for rank, held in enumerate(base_bytes)})
    steps = profiled_steps(run.config.output.profile, run.num_steps) if run.config.output.profile else None
    trace = run.output_dir / PROFILE / f"rank_{run.world.rank}.json.gz"
    with profiled(steps, run.first_step, trace) as note_step:

        def after_step(step: int, found: Metrics) -> bool:
            note_step(step)
            return session.after_step(step, found)

        run_steps(
            trainer,
            log=log,
            evaluate=lambda step: held_out() | play(step),
            after_step=after_step,
            first_step=run.first_step,
            on_not_finite=_reporter(run),
        )
    session.end_training()
    tensors = gather_adapter(model)
    end_engine(engine)
    metrics.close_bar()
    summary = _training_summary(run, history, base_bytes, session.seconds)
    return Trained(summary, model.peft_config["default"], tensors, start)


def _reporter(run: Run) -> Callable[[NotFinite], None] | None:
    """Return what writes not_finite.json and says it in a line; None if an earlier session of this run has. Collective.

    A file about steps behind the checkpoint goes: the run comes to them again.
    """
    path = run.output_dir / NOT_FINITE

    def is_said() -> bool:
        try:
            step = json.loads(path.read_text(encoding="utf-8"))["step"]
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError):  # torn
            step = run.num_steps
        if step > run.first_step:
            path.unlink()
        return step <= run.first_step

    if agree(run.world, is_said):
        return None

    def report(found: NotFinite) -> None:
        if run.world.is_main:
            write_json_atomically(path, dict(found))
            print(described(found, str(path)), file=sys.stderr, flush=True)

    return report


def _training_summary(run: Run, history: list[Metrics], base_bytes: list[int], seconds: float) -> TrainingSummary:
    speeds = [values for values in history if LOSS in values]
    if not speeds:  # stopped before the first logged step
        return cast(TrainingSummary, {})
    data = run.data
    summary: dict[str, Any] = {
        "num_steps": run.num_steps,
        "num_tokens": total_over(run.stream, data.dataset.lengths, data.training.num_tokens),
        "num_loss_tokens": total_over(run.stream, data.dataset.num_loss_tokens, data.training.num_loss_tokens),
        "seconds": seconds,
        "base_bytes_per_rank": base_bytes,
        "first_loss": speeds[0][LOSS],
        "tokens_per_s": median(values[TOKENS_PER_S] for values in speeds),
        "loss_tokens_per_s": median(values[LOSS_TOKENS_PER_S] for values in speeds),
    }
    for values in history:
        summary |= values
    return cast(TrainingSummary, summary)
