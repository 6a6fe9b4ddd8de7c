"""One run, end to end: prepare, load, train, save, judge, finish. `launcher/train.py` calls it on every rank."""

from __future__ import annotations

import secrets
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.accelerator import release_memory, use_deterministic_kernels
from snake_dist.checkpoint.run_dir import read_status
from snake_dist.cluster.preemption import StopFlag
from snake_dist.cluster.world import World, agree, start_process_group, world_from_environment
from snake_dist.data.packing import pack
from snake_dist.errors import InputError
from snake_dist.evaluation.report.numbers import flatten
from snake_dist.files import (
    ADAPTER_DIR,
    CONFIG,
    DS_CONFIG,
    METRICS,
    RUN_FACTS,
    SUMMARY,
    write_json_atomically,
    write_text_atomically,
)
from snake_dist.model import adapters, base
from snake_dist.run.adapter_dir import save
from snake_dist.run.artifacts import artifacts_of
from snake_dist.run.config import RunConfig
from snake_dist.run.games import judge_run, write_run_report
from snake_dist.run.model_card import software_versions
from snake_dist.run.preparation import Run, check_config, prepare
from snake_dist.run.session import Session, Stopped, session_of
from snake_dist.run.sinks import open_sinks
from snake_dist.run.start import render_example, render_start
from snake_dist.run.summary import (
    Played,
    RunFacts,
    Summary,
    TrainingSummary,
    data_notices,
    read_summary,
    render_summary,
)
from snake_dist.run.training import load_model, train_model
from snake_dist.training.metrics import MetricsLog, SilentLog
from snake_dist.training.trainer import Collate
from snake_dist.zero.config import zero_stage

if TYPE_CHECKING:
    from peft import PeftModel


def finetune(config: RunConfig) -> Summary:
    """Train, save and judge an adapter. Every rank calls it, and receives the run's summary.

    SIGTERM and SIGUSR1 to any rank save a checkpoint and end the run at the step's end; the summary then has
    "stopped_at_step". Raises InputError, on all ranks alike, for what the user can mend.
    """
    base.quieten_libraries()
    if config.training.deterministic:
        use_deterministic_kernels()
    world = world_from_environment()
    with StopFlag() as stop:
        finished = finished_summary(config, world)
        if finished is not None:
            return finished
        run = prepare(config, world)
        with session_of(run, stop) as session:
            model, collate = load_model(run)
            facts = describe(run, model, collate)
            metrics = open_metrics(run, facts, session)
            trained = train_model(run, model, collate, metrics, session)
            del model  # the judge loads its own
            try:
                session.raise_if_stopped()
                adapter = save(run, trained)
                played = judge(run, adapter, session)
            except Stopped:
                return end_stopped(session, facts, trained.summary, metrics)
            return finish(session, facts, trained.summary, played, metrics)


def finished_summary(config: RunConfig, world: World) -> Summary | None:
    """Return the summary of the run in --output-dir, if --resume auto finds it finished."""
    if config.checkpoint.resume != "auto" or config.output.output_dir is None:
        return None
    check_config(config, world)
    start_process_group(world)
    directory = Path(config.output.output_dir).expanduser()

    def read() -> Summary | None:
        status = read_status(directory)
        if status is None or status.state != "finished":
            return None
        print(f"{directory}: this run finished at step {status.step}: nothing is left to do", flush=True)
        try:
            return read_summary(directory)
        except ValueError as problem:
            raise InputError(f"{directory / SUMMARY}: not JSON ({problem})") from None

    return agree(world, read)


def describe(run: Run, model: PeftModel, collate: Collate) -> RunFacts:
    """Return what is known of the run before its first step."""
    trainable, total = adapters.count_parameters(model)
    return {
        "output_dir": str(run.output_dir),
        "adapter_dir": str(run.output_dir / ADAPTER_DIR),
        "world_size": run.world.size,
        "dtype": run.dtype,
        "zero_stage": zero_stage(run.ds_config),
        "board": asdict(run.board),
        "data": run.data.described(),
        "packed": collate is pack,
        "parameters": {"trainable": trainable, "total": total, "trainable_share": trainable / total},
    }


def open_metrics(run: Run, facts: RunFacts, session: Session) -> SilentLog:
    """Write config.yaml, ds_config.json and run.json, and open metrics.jsonl and W&B: all of it on rank 0."""
    if not run.world.is_main:
        return SilentLog()
    wandb_run_id = run.saved.get("wandb_run_id") or secrets.token_hex(4)
    shown = run.config.flat() | {"run": facts}
    sinks = open_sinks(run, shown, wandb_run_id)
    if run.checkpoint is not None:
        print(f"resuming from {run.checkpoint.path}, after step {run.first_step}", flush=True)
    print(render_start(run, facts), render_example(run), sep="\n", flush=True)
    for notice in data_notices(facts["data"]):
        print(f"warning: {notice}", file=sys.stderr, flush=True)
    parameters = facts["parameters"]
    write_text_atomically(run.output_dir / CONFIG, run.config.to_yaml())
    write_json_atomically(run.output_dir / DS_CONFIG, run.ds_config)
    start = {**facts, "wandb_run_id": wandb_run_id, "versions": software_versions()}
    write_json_atomically(run.output_dir / RUN_FACTS, start)
    path = run.output_dir / METRICS
    metrics = MetricsLog(path, run.num_steps, first_step=run.first_step, sinks=sinks, wandb_run_id=wandb_run_id)
    if not session.history:
        metrics.log(
            0,
            {
                "model/trainable_parameters": parameters["trainable"],
                "model/trainable_share": parameters["trainable_share"],
            },
        )
    return metrics


def judge(run: Run, adapter: Path, session: Session) -> Played:
    """Play the games at the end, with the adapter as it was saved. Raises Stopped; see `Session.gather`."""
    if not run.board.style:
        return {"why_no_games": "the prompts are of no known style; --style would say which"}
    if not run.config.play.play_games:
        return {"why_no_games": "--play-games 0"}
    release_memory()
    return {"play": judge_run(run, adapter, session)}


def finish(session: Session, facts: RunFacts, training: TrainingSummary, played: Played, metrics: SilentLog) -> Summary:
    """Write the report and summary.json, and print the summary; return it."""
    run = session.run
    summary: Summary = {**facts, "training": training, **played}

    def write() -> Summary:
        metrics.log(run.num_steps, flatten(summary.get("play", {}), "play"))
        metrics.check()
        if "play" in summary:
            page = write_run_report(run, summary["play"])
            metrics.log_page(run.num_steps, page)
            summary["report"] = str(page)
        write_json_atomically(run.output_dir / SUMMARY, summary)
        for artifact in artifacts_of(run, summary):
            metrics.log_artifact(artifact)
        metrics.close()
        print(render_summary(summary), flush=True)
        session.status.write("finished")
        return summary

    return agree(run.world, write)


def end_stopped(session: Session, facts: RunFacts, training: TrainingSummary, metrics: SilentLog) -> Summary:
    """End a run that was asked to stop and has saved; return its summary so far."""
    run, step = session.run, session.status.step
    reason = f"asked to stop by {session.stop.signal_name or 'a signal to another rank'}"
    session.status.write("stopped", reason)
    metrics.close()
    agree(run.world, metrics.check)
    if run.world.is_main:
        print(
            f"stopped after step {step} of {run.num_steps} ({reason}); the same command with "
            f"--resume auto --output-dir {run.output_dir} resumes",
            flush=True,
        )
    return {**facts, "training": training, "stopped_at_step": step}


def train(config: RunConfig, num_ranks: int = 1) -> Summary:
    """Call `finetune` in this process, or on `num_ranks` new ones of this machine; return the summary.

    In a process that a launcher started (deepspeed, torchrun, srun), call it with num_ranks=1 on every rank.
    A script that asks for more needs its `if __name__ == "__main__"` guard. Raises InputError.
    """
    if num_ranks == 1:
        return finetune(config)

    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=num_ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    outcome = elastic_launch(launch, _finetune_rank)(config)[0]
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def _finetune_rank(config: RunConfig) -> Summary | InputError:
    """Call `finetune` on a new rank. An InputError is returned: raised here it would be a launcher's report."""
    try:
        return finetune(config)
    except InputError as problem:
        return problem
