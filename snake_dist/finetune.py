"""One run, end to end: prepare, train, save, judge. `launcher/train.py` calls it on every rank."""

from __future__ import annotations

import gc
import json
import time
import warnings
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from snake_dist.checkpoint.adapter import expected_shapes, gather_adapter, prove_adapter, save_adapter
from snake_dist.checkpoint.publish import write_json_atomically
from snake_dist.cluster.world import agree, gather, world_from_environment
from snake_dist.data.packing import pack, pad
from snake_dist.data.tokenization import hash_prompt
from snake_dist.evaluation.episodes import game_seeds
from snake_dist.evaluation.judge import Games, SpreadPlayer, judge, load_model_players
from snake_dist.evaluation.report import flatten
from snake_dist.game.board import State
from snake_dist.game.text import render_prompt
from snake_dist.model import adapters, base, smollm2
from snake_dist.model.attention import use_packed_attention
from snake_dist.preparation import Run, prepare
from snake_dist.run_config import RunConfig
from snake_dist.summary import model_card, render_summary, software_versions
from snake_dist.training.ds_config import zero_stage
from snake_dist.training.engine import start_engine
from snake_dist.training.held_out import held_out_metrics
from snake_dist.training.loop import Collate, Metrics, train
from snake_dist.training.metrics import MetricsLog
from snake_dist.training.wandb_log import WandbLog

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

ADAPTER_DIR = Path("lora_adapters/model_artifacts")


def finetune(config: RunConfig) -> dict[str, Any]:
    """Train, save, judge. Every rank calls it, and gets the run's summary (what summary.json holds).

    Raises InputError, on all ranks alike, for whatever the user can mend.
    """
    world = world_from_environment()
    _quieten(world.is_main)
    run = prepare(config, world)
    model, collate = load_model(run)
    trainable, total = adapters.count_parameters(model)
    summary: dict[str, Any] = {
        "output_dir": str(run.output_dir),
        "adapter_dir": str(run.output_dir / ADAPTER_DIR),
        "world_size": world.size,
        "dtype": run.dtype,
        "packed": collate is pack,
        "board": asdict(run.board),
        "parameters": {"trainable": trainable, "total": total, "trainable_share": trainable / total},
        "data": run.data.described(),
    }
    metrics = _open_metrics(run, summary) if world.is_main else None
    shapes = expected_shapes(model)
    summary["training"], tensors = train_model(run, model, collate, metrics)
    agree(world, lambda: _save(run, model, tensors, shapes, summary))
    del model, tensors  # the judge loads everything afresh
    gc.collect()
    if config.play.play_games and run.board.style:
        summary["play"] = _judge(run)
    else:
        summary["why_no_games"] = (
            "--play-games 0" if run.board.style else "the prompts are of no known style; --style would say which"
        )
    if metrics is not None:
        for name, scores in summary.get("play", {}).get("players", {}).items():
            metrics.log(run.num_steps, flatten(scores, f"play/{name}"))
        write_json_atomically(run.output_dir / "summary.json", summary)
        metrics.close()
        print(render_summary(summary), flush=True)
    return summary


def load_model(run: Run) -> tuple[PeftModel, Collate]:
    """The base model with a new adapter, and how its batches are to be built: packed where that is exact."""
    import torch

    config = run.config
    model = base.load_base(run.base_location, run.dtype, trust_remote_code=config.model.trust_remote_code)
    collate = pack if use_packed_attention(model) else pad
    torch.manual_seed(config.training.seed)
    model = adapters.attach(model, config.adapter)
    if config.model.gradient_checkpointing:
        # Not reentrant: the reentrant kind gives LoRA no gradients, the base's inputs needing none.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, collate


def train_model(
    run: Run, model: PeftModel, collate: Collate, metrics: MetricsLog | None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train `model`; returns the training part of the summary, and the adapter's tensors as they are saved."""
    started = time.perf_counter()
    engine = start_engine(model, run.ds_config)
    evaluate = partial(
        held_out_metrics, engine, run.data.eval_dataset, run.data.eval_examples, run.share, collate
    )
    history: list[Metrics] = []

    def log(step: int, values: Metrics) -> None:
        history.append(values)
        if metrics is not None:
            metrics.log(step, values)

    train(
        engine,
        run.data.dataset,
        run.stream,
        run.share,
        run.config.training,
        num_steps=run.num_steps,
        collate=collate,
        log=log,
        evaluate=evaluate,
    )
    tensors = gather_adapter(model)
    engine.destroy()
    if metrics is not None:
        metrics.close_bar()
    speeds = [values for values in history if "train/tokens_per_s" in values]
    training = {
        "num_steps": run.num_steps,
        "seconds": time.perf_counter() - started,
        "first_loss": history[0]["train/loss"],
        "tokens_per_s": median(values["train/tokens_per_s"] for values in speeds),
        "loss_tokens_per_s": median(values["train/loss_tokens_per_s"] for values in speeds),
    }
    for values in history:
        training |= values
    return training, tensors


def _open_metrics(run: Run, summary: dict[str, Any]) -> MetricsLog:
    """Start the run's record on rank 0: config.yaml, ds_config.json, metrics.jsonl, W&B."""
    parameters = summary["parameters"]
    print(
        f"trainable parameters: {parameters['trainable']:,} of {parameters['total']:,} "
        f"({parameters['trainable_share']:.2%}); {run.num_steps} steps of {run.stream.global_batch_size} examples, "
        f"{run.dtype}, ZeRO stage {zero_stage(run.ds_config)}, output in {run.output_dir}",
        flush=True,
    )
    (run.output_dir / "config.yaml").write_text(run.config.to_yaml(), encoding="utf-8")
    write_json_atomically(run.output_dir / "ds_config.json", run.ds_config)
    wandb_log = WandbLog(run.config.wandb, run.output_dir, run.config.flat() | {"run": summary})
    return MetricsLog(run.output_dir / "metrics.jsonl", run.num_steps, wandb_log)


def _save(
    run: Run,
    model: PeftModel,
    tensors: dict[str, torch.Tensor],
    shapes: dict[str, tuple[int, ...]],
    summary: dict[str, Any],
) -> None:
    """Write the adapter and prove it by reading it back. Rank 0 only."""
    config = run.config
    peft_config = model.peft_config["default"]
    embedded = config.model.base_model == smollm2.NAME
    # What other tools should load under the adapter; our own read the metadata.
    peft_config.base_model_name_or_path = smollm2.HUB_ID if embedded else run.base_location
    completion_tokens = run.data.dataset.num_loss_tokens[run.data.train_examples]
    metadata = {
        "adapter": config.adapter.adapter,
        "preset": config.adapter.preset,
        "peft_config": json.loads(json.dumps(peft_config.to_dict(), default=_plain)),
        "base_model": config.model.base_model if embedded else run.base_location,
        "base_model_hub_id": smollm2.HUB_ID if embedded else None,
        "base_model_revision": run.shape.revision,
        "dtype": run.dtype,
        "grid_size": run.board.grid_size,
        "mode": run.board.mode,
        "style": run.board.style,
        "max_completion_tokens": int(completion_tokens.max()),
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset_fingerprint": run.data.dataset.fingerprint,
        "train_examples": len(run.data.train_examples),
        "seed": config.training.seed,
        "world_size": run.world.size,
        "versions": software_versions(),
        "metrics": summary["training"],
    }
    directory = run.output_dir / ADAPTER_DIR
    save_adapter(directory, model, tensors, run.tokenizer, metadata, model_card(metadata))
    prove_adapter(directory, shapes)


def _plain(value: Any) -> Any:
    """JSON form of what PEFT's configs hold besides plain values."""
    return sorted(value) if isinstance(value, set) else str(value)


def _judge(run: Run) -> dict[str, Any]:
    """Play the games; the decoding is spread over all ranks, the results are the same on each."""
    world, board = run.world, run.board
    loaded = load_model_players(
        run.output_dir / ADAPTER_DIR,
        base.device_for(world.local_rank),
        trust_remote_code=run.config.model.trust_remote_code,
    )
    spread = {
        name: SpreadPlayer(player, world.rank, world.size, partial(gather, world=world))
        for name, player in loaded.items()
    }
    seeds = game_seeds(run.config.play.play_games)
    games = Games(board.grid_size, board.mode, seeds, run.config.play.play_max_steps)
    trained = run.data.dataset.prompt_hashes

    def is_trained(state: State) -> bool:
        return hash_prompt(render_prompt(state, str(board.style))) in trained

    with tqdm(total=2 * len(seeds), desc="playing", unit="game", disable=not world.is_main) as bar:
        done = {name: 0 for name in spread}

        def on_progress(name: str, finished: int, replies: int) -> None:
            done[name] = finished
            bar.update(sum(done.values()) - bar.n)
            bar.set_postfix_str(f"{name}, {replies} moves")

        return judge(spread, games, is_trained=is_trained, on_progress=on_progress)


def _quieten(is_main: bool) -> None:
    """Leave the terminal to the run's own lines: libraries say errors only."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not is_main:
        warnings.simplefilter("ignore")
