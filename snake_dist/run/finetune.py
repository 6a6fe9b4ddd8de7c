"""One run, end to end: prepare, train, save, judge. `launcher/train.py` calls it on every rank."""

from __future__ import annotations

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.plain_lora import adapter_start, publishable
from snake_dist.checkpoint.run_dir import ADAPTER_DIR, METRICS, read_status
from snake_dist.checkpoint.saved_adapter import prove_adapter, save_adapter
from snake_dist.cluster.preemption import StopFlag
from snake_dist.cluster.world import World, agree, start_process_group, world_from_environment
from snake_dist.data.packing import pack
from snake_dist.errors import InputError
from snake_dist.evaluation.players.trained_prompts import with_earlier_hashes
from snake_dist.evaluation.report.numbers import flatten
from snake_dist.files import write_json_atomically
from snake_dist.model import adapters, base
from snake_dist.run.config import RunConfig
from snake_dist.run.games import judge_run, write_run_report
from snake_dist.run.preparation import Run, check_config, prepare
from snake_dist.run.session import Session, Stopped
from snake_dist.run.summary import adapter_metadata, model_card, render_summary, software_versions
from snake_dist.run.training import load_model, train_model
from snake_dist.training.metrics import MetricsLog
from snake_dist.training.wandb_log import WandbLog
from snake_dist.zero.config import zero_stage


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
        prompts = with_earlier_hashes(run.data.dataset.prompt_hashes, run.config.adapter.init_adapter)
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
