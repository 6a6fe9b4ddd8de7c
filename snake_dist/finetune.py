"""One run, end to end: prepare, train, save, judge. `launcher/train.py` calls it on every rank."""

from __future__ import annotations

import gc
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.adapter import gather_adapter, init_adapter, prove_adapter, save_adapter
from snake_dist.checkpoint.publish import write_json_atomically
from snake_dist.checkpoint.published import adapter_start, publishable
from snake_dist.checkpoint.run_dir import ADAPTER_DIR, METRICS, read_status
from snake_dist.cluster.preemption import StopFlag
from snake_dist.cluster.world import World, agree, gather, start_process_group, world_from_environment
from snake_dist.data.batching import total_over
from snake_dist.data.packing import pack, pad
from snake_dist.errors import InputError
from snake_dist.evaluation.report import flatten
from snake_dist.model import adapters, base
from snake_dist.model.attention import use_packed_attention
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops
from snake_dist.preparation import Run, check_config, prepare
from snake_dist.run_config import RunConfig
from snake_dist.run_judge import games_in_training, judge_run, trained_prompts, write_run_report
from snake_dist.session import Session, Stopped
from snake_dist.summary import adapter_metadata, model_card, render_summary, software_versions
from snake_dist.training.ds_config import zero_stage
from snake_dist.training.engine import start_engine
from snake_dist.training.held_out import held_out_metrics
from snake_dist.training.loop import Collate, Metrics, run_steps
from snake_dist.training.metrics import MetricsLog
from snake_dist.training.rank_allocation import rank_allocation
from snake_dist.training.wandb_log import WandbLog

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def finetune(config: RunConfig) -> dict[str, Any]:
    """Train, save, judge. Every rank calls it, and gets the run's summary (what summary.json holds).

    SIGTERM and SIGUSR1 to any rank save a checkpoint and end the run at the step's end; the summary then has
    "stopped_at_step". Raises InputError, on all ranks alike, for whatever the user can mend.
    """
    base.quieten_libraries()
    world = world_from_environment()
    stop = StopFlag()
    stop.install()
    try:
        finished = _finished_summary(config, world)
        if finished is not None:
            return finished
        run = prepare(config, world)
        try:
            return _run_session(run, Session(run, stop))
        finally:
            if run.lock is not None:
                run.lock.release()
    finally:
        stop.restore()


def _finished_summary(config: RunConfig, world: World) -> dict[str, Any] | None:
    """The summary of the run in --output-dir, if --resume auto finds it finished."""
    if config.checkpoint.resume != "auto" or config.output.output_dir is None:
        return None
    check_config(config, world)
    start_process_group(world)
    directory = Path(config.output.output_dir).expanduser()

    def read() -> dict[str, Any] | None:
        status = read_status(directory)
        if status is None or status.get("state") != "finished":
            return None
        print(f"{directory}: this run finished at step {status.get('step')}: nothing is left to do", flush=True)
        try:
            return json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        except ValueError as problem:
            raise InputError(f"{directory / 'summary.json'}: not JSON ({problem})") from None

    return agree(world, read)


def _run_session(run: Run, session: Session) -> dict[str, Any]:
    world = run.world
    summary: dict[str, Any] = {
        "output_dir": str(run.output_dir),
        "adapter_dir": str(run.output_dir / ADAPTER_DIR),
        "world_size": world.size,
        "dtype": run.dtype,
        "zero_stage": zero_stage(run.ds_config),
        "board": asdict(run.board),
        "data": run.data.described(),
    }
    with session.guard():
        try:
            metrics = train_and_save(run, summary, session)
            gc.collect()  # the judge loads everything afresh
            if run.config.play.play_games and run.board.style:
                summary["play"] = judge_run(run, run.output_dir / ADAPTER_DIR, session)
            else:
                no_style = "the prompts are of no known style; --style would say which"
                summary["why_no_games"] = "--play-games 0" if run.board.style else no_style
        except Stopped:
            return _stop(run, summary, session)
        if metrics is not None:
            metrics.log(run.num_steps, flatten(summary.get("play", {}), "play"))
            if "play" in summary:
                page = write_run_report(run, summary["play"])
                metrics.log_page(run.num_steps, page)
                summary["report"] = str(page)
            write_json_atomically(run.output_dir / "summary.json", summary)
            metrics.close()
            print(render_summary(summary), flush=True)
        session.end("finished")
    return summary


def _stop(run: Run, summary: dict[str, Any], session: Session) -> dict[str, Any]:
    """The end of a run that was asked to stop, and has saved."""
    reason = f"asked to stop by {session.stop.signal_name or 'a signal to another rank'}"
    session.end("stopped", reason)
    if session.metrics is not None:
        session.metrics.close()
        print(
            f"stopped after step {session.step} of {run.num_steps} ({reason}); the same command with "
            f"--resume auto --output-dir {run.output_dir} goes on",
            flush=True,
        )
    return summary | {"stopped_at_step": session.step}


def train_and_save(run: Run, summary: dict[str, Any], session: Session) -> MetricsLog | None:
    """Load, train and save the adapter, adding to the run's summary. Returns rank 0's open metrics log.

    Raises Stopped, on all ranks alike, if the run was asked to stop in its training.
    """
    model, collate = load_model(run)
    trainable, total = adapters.count_parameters(model)
    summary["packed"] = collate is pack
    summary["parameters"] = {"trainable": trainable, "total": total, "trainable_share": trainable / total}
    metrics = session.metrics = _open_metrics(run, summary, session) if run.world.is_main else None
    start = adapter_start(model)
    summary["training"], tensors = train_model(run, model, collate, metrics, session)
    if session.stopped():
        raise Stopped

    def save() -> None:
        directory = run.output_dir / ADAPTER_DIR
        published = publishable(model.peft_config["default"], tensors, start)
        metadata = adapter_metadata(run, published.config, summary["training"])
        prompts = trained_prompts(run)
        save_adapter(directory, published, run.tokenizer, metadata, model_card(metadata), prompts)
        prove_adapter(directory, published.shapes)

    agree(run.world, save)
    return metrics


def train(config: RunConfig, num_ranks: int = 1) -> dict[str, Any]:
    """`finetune` from Python: in this process, or on `num_ranks` new ones of this machine. Returns the summary.

    In a process that a launcher started (deepspeed, torchrun, srun), call it with num_ranks=1 on every rank.
    A script that asks for more needs its `if __name__ == "__main__"` guard. Raises InputError.
    """
    if num_ranks == 1:
        return finetune(config)

    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    ranks = elastic_launch(launch, _finetune_rank)(config)
    if "error" in ranks[0]:
        raise InputError(ranks[0]["error"])
    return ranks[0]


def _finetune_rank(config: RunConfig) -> dict[str, Any]:
    """What each new rank runs. An InputError comes back as a value: raised here it would be a launcher's report."""
    try:
        return finetune(config)
    except InputError as problem:
        return {"error": str(problem)}


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


def _open_metrics(run: Run, summary: dict[str, Any], session: Session) -> MetricsLog:
    """Start the run's record on rank 0: config.yaml, ds_config.json, metrics.jsonl, W&B."""
    parameters = summary["parameters"]
    shown = run.config.flat() | {"run": summary}
    wandb_log = WandbLog(run.config.wandb, run.output_dir, shown, session.wandb_run_id)
    session.wandb_run_id = wandb_log.run_id
    if run.checkpoint is not None:
        print(f"going on from {run.checkpoint.path}, after step {session.first_step}", flush=True)
    print(
        f"trainable parameters: {parameters['trainable']:,} of {parameters['total']:,} "
        f"({parameters['trainable_share']:.2%}); {run.num_steps} steps of {run.stream.global_batch_size} examples, "
        f"{run.dtype}, ZeRO stage {zero_stage(run.ds_config)}, output in {run.output_dir}",
        flush=True,
    )
    (run.output_dir / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
    write_json_atomically(run.output_dir / "ds_config.json", run.ds_config)
    started = summary | {"wandb_run_id": wandb_log.run_id, "versions": software_versions()}
    write_json_atomically(run.output_dir / "run.json", started)
    metrics = MetricsLog(run.output_dir / METRICS, run.num_steps, wandb_log, session.first_step)
    if not session.history:
        metrics.log(
            0,
            {
                "model/trainable_parameters": parameters["trainable"],
                "model/trainable_share": parameters["trainable_share"],
            },
        )
    return metrics
