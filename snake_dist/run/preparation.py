"""The preparation of a run: every check that needs no weights, with the same verdict on every rank."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.checkpoints import Checkpoint, check_fingerprint
from snake_dist.checkpoint.run_dir import (
    RunDirLock,
    begin_status,
    leave_run_dir,
    open_run_dir,
    remove_results,
)
from snake_dist.checkpoint.saved_adapter import check_init_adapter
from snake_dist.cluster.watchdog import Watchdog
from snake_dist.cluster.world import World, agree, start_process_group
from snake_dist.data.batching import ExampleStream
from snake_dist.data.forms import parse_columns
from snake_dist.data.sources import resolve_paths, split_weight
from snake_dist.data.templates import check_template
from snake_dist.errors import InputError
from snake_dist.model import adapters, base
from snake_dist.model.usable import check_usable
from snake_dist.run.board import Board, find_board, name_style
from snake_dist.run.config import RunConfig, check_run_config, sinks_in_use
from snake_dist.run.data import NO_SHARE, RunData, prepare_data
from snake_dist.run.fingerprint import fingerprint_of
from snake_dist.run.profile import profiled_steps
from snake_dist.run.stream import Source, mixture_fingerprint, open_stream, weighted_sources
from snake_dist.training.trainer import Share
from snake_dist.training.wandb_log import complete_wandb_config
from snake_dist.zero.config import RunValues, build_ds_config, check_pair, fill_ds_config, read_ds_config, zero_stage
from snake_dist.zero.engine import check_dtype_here

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_STAGE = 2


@dataclass(frozen=True)
class Run:
    """A run that is ready to load its model."""

    config: RunConfig
    world: World
    output_dir: Path
    base_location: str
    """Local directory or hub id."""
    shape: base.ModelShape
    dtype: str
    """Name of the base's dtype; the adapter's too."""
    ds_config: dict[str, Any]
    """Without any "auto"."""
    tokenizer: PreTrainedTokenizerBase
    board: Board
    data: RunData
    num_steps: int
    stream: ExampleStream
    sources: list[Source]
    """Those that `stream` mixes; [] if it mixes none."""
    share: Share
    fingerprint: dict[str, Any]
    """What decides the run's numbers; see `run.fingerprint`."""
    checkpoint: Checkpoint | None
    """From which the run resumes; None: a new run."""
    lock: RunDirLock | None
    """Rank 0's hold on the output directory."""
    watchdog: Watchdog

    @property
    def saved(self) -> dict[str, Any]:
        """The numbers of the checkpoint from which the run resumes; {} for a new run."""
        return self.checkpoint.numbers if self.checkpoint else {}

    @property
    def first_step(self) -> int:
        """Steps done before this session."""
        return self.checkpoint.step if self.checkpoint else 0


def prepare(config: RunConfig, world: World) -> Run:
    """Check the config and prepare everything but the model. Collective; raises InputError on all ranks alike."""
    accumulation, given_ds_config = check_config(config, world)
    start_process_group(world)
    watchdog = Watchdog(world, config.checkpoint.rank_timeout_s)
    with watchdog.explaining():
        return _prepare_watched(config, watchdog, accumulation, given_ds_config)


def _prepare_watched(config: RunConfig, watchdog: Watchdog, accumulation: int, given_ds_config: dict[str, Any]) -> Run:
    world = watchdog.world
    if config.data.held_out_share == 0 and not config.data.eval_data and world.is_main:
        _warn(f"nothing is held out: {NO_SHARE}; --eval-data brings examples to be judged by")
    board = agree(world, partial(find_board, config))
    locks: list[RunDirLock] = []

    def open_directory() -> tuple[Path, Checkpoint | None]:
        path = output_path(config.output.output_dir, board.grid_size)
        checkpoint, lock = open_run_dir(path, config.checkpoint.resume, _warn)
        locks.append(lock)
        begin_status(path, checkpoint)
        return path, checkpoint

    output_dir, checkpoint = agree(world, open_directory)
    lock = locks[0] if locks else None
    try:
        run = _prepare_run(config, watchdog, board, output_dir, accumulation, given_ds_config)
        if checkpoint is not None:
            check_fingerprint(checkpoint, run.fingerprint)
        earlier = checkpoint.numbers.get("config", {}) if checkpoint else {}
        wandb = agree(world, partial(complete_wandb_config, config.wandb, earlier, os.environ))
        agree(world, partial(sinks_in_use, config.output, wandb))
    except InputError as problem:
        if lock is not None:
            leave_run_dir(output_dir, lock, str(problem))
        raise
    if checkpoint is not None and world.is_main:
        remove_results(output_dir)
    return replace(run, config=replace(config, wandb=wandb), checkpoint=checkpoint, lock=lock)


def _prepare_run(
    config: RunConfig,
    watchdog: Watchdog,
    board: Board,
    output_dir: Path,
    accumulation: int,
    given_ds_config: dict[str, Any],
) -> Run:
    world = watchdog.world
    dtype = base.choose_dtype(config.model.base_dtype, given_ds_config)
    agree(world, partial(check_dtype_here, dtype), on_each_node=True)
    if config.model.compile_layers:
        from snake_dist.model.compiled_layers import check_compiles

        agree(world, check_compiles, on_each_node=True)
    location = agree(world, partial(base.find_base, config.model), on_each_node=True)
    remote_code = config.model.trust_remote_code
    shape = base.model_shape(location, trust_remote_code=remote_code)
    agree(world, partial(_check_model, config, location), on_each_node=True)
    tokenizer = base.load_tokenizer(location, trust_remote_code=remote_code)
    agree(world, partial(check_template, tokenizer, config.data.template))
    init_adapter = agree(world, partial(_init_adapter_digest, config, shape.revision))
    if config.checkpoint.best_by == "play" and board.style is None:
        raise InputError("--best-by play: the prompts of --data are of no known style: name one with --style")
    data = prepare_data(config, world, board, tokenizer, shape.max_positions)
    agree(world, partial(data.check_vocabulary, tokenizer, shape.vocab_size))

    ds_config = _filled_ds_config(config, given_ds_config, world, dtype, accumulation, shape.hidden_size)
    sources = weighted_sources(config.data.data, data.dataset, data.train_examples)
    stream = open_stream(config.training, data, sources)
    num_steps = stream.num_steps
    if config.output.profile is not None:
        profiled_steps(config.output.profile, num_steps)
    if config.adapter.adapter == "adalora":
        adapters.rank_schedule(num_steps)  # raises where there are too few steps
    fingerprint = fingerprint_of(
        config,
        data,
        tokenizer,
        base_revision=shape.revision,
        dtype=dtype,
        num_steps=num_steps,
        optimizer=ds_config["optimizer"],
    )
    return Run(
        config=config,
        world=world,
        output_dir=output_dir,
        base_location=location,
        shape=shape,
        dtype=dtype,
        ds_config=ds_config,
        tokenizer=tokenizer,
        board=name_style(board, config, data.dataset),
        data=data,
        num_steps=num_steps,
        stream=stream,
        share=Share(world.rank, world.size, config.training.micro_batch_size, accumulation),
        sources=sources,
        fingerprint=fingerprint | mixture_fingerprint(sources) | init_adapter,
        checkpoint=None,
        lock=None,
        watchdog=watchdog,
    )


def _check_model(config: RunConfig, location: str) -> None:
    """Raise InputError if the base model cannot be used or adapted, before anything takes long."""
    model = check_usable(location, trust_remote_code=config.model.trust_remote_code)
    adapters.check_attaches(model, config.adapter)


def _filled_ds_config(
    config: RunConfig, given: dict[str, Any], world: World, dtype: str, accumulation: int, hidden_size: int
) -> dict[str, Any]:
    training = config.training
    values = RunValues(
        dtype=dtype,
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        accumulation=accumulation,
        world_size=world.size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
    )
    return fill_ds_config(given, values, hidden_size=hidden_size, local_size=world.local_size)


def _init_adapter_digest(config: RunConfig, base_revision: str) -> dict[str, str]:
    """Return what --init-adapter adds to the fingerprint: the weights, whatever their path."""
    directory = config.adapter.init_adapter
    if directory is None:
        return {}
    return {"--init-adapter": check_init_adapter(Path(directory).expanduser(), config.adapter, base_revision)}


def check_config(config: RunConfig, world: World) -> tuple[int, dict[str, Any]]:
    """Return (accumulation steps, DeepSpeed config as given) after every check that needs no other rank and no model.

    Raises InputError for the first fault.
    """
    accumulation = check_run_config(config, world.size)
    ds_config = read_ds_config(config.output.ds) if config.output.ds else build_ds_config(DEFAULT_STAGE)
    check_pair(ds_config, config.adapter.adapter)
    if config.model.compile_layers and zero_stage(ds_config) == 3:
        raise InputError("--compile-layers contradicts ZeRO stage 3, which gathers each layer's weights as it runs")
    if config.model.base_dtype != "auto":
        base.choose_dtype(config.model.base_dtype, ds_config)
    parse_columns(config.data.columns)
    for patterns in (config.data.data, config.data.eval_data):
        if patterns:
            resolve_paths(patterns)
    for word in config.data.eval_data:
        if split_weight(word)[1] is not None:
            raise InputError(f"--eval-data {word}: only --data takes weights")
    return accumulation, ds_config


def output_path(given: str | None, grid_size: int) -> Path:
    """Return the run's directory: the given one, else a new one."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    default = f"logs/extensions/models/grid-size-{grid_size}/llm_finetune_v0.03_{stamp}"
    return Path(given or default).expanduser().absolute()


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
