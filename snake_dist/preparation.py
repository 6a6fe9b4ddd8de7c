"""Everything a run can get wrong, checked before a weight is loaded; the same verdict on every rank."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snake_dist.cluster.world import World, agree, start_process_group
from snake_dist.data.batching import ExampleStream, accumulation_steps, num_steps_for
from snake_dist.data.records import resolve_paths
from snake_dist.errors import InputError
from snake_dist.evaluation.judge import check_play_config
from snake_dist.model import adapters, base
from snake_dist.run_config import RunConfig
from snake_dist.run_data import Board, RunData, find_board, prepare_data
from snake_dist.training.ds_config import build_ds_config, fill_ds_config, read_ds_config
from snake_dist.training.loop import Share, check_training_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_STAGE = 2


@dataclass(frozen=True)
class Run:
    """A run that can start."""

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
    share: Share


def prepare(config: RunConfig, world: World) -> Run:
    """Check, find and make everything but the model. Collective; raises InputError on all ranks alike."""
    accumulation, given_ds_config = check_config(config, world)
    start_process_group(world)
    board = agree(world, partial(find_board, config))
    output_dir = agree(world, partial(new_output_dir, config.output.output_dir, board.grid_size))
    location = agree(world, partial(base.find_base, config.model), on_each_node=True)
    remote_code = config.model.trust_remote_code
    shape = base.model_shape(location, trust_remote_code=remote_code)
    tokenizer = base.load_tokenizer(location, trust_remote_code=remote_code)
    data = prepare_data(config, world, board, tokenizer, shape.max_positions)

    training = config.training
    dtype = base.choose_dtype(config.model.base_dtype, given_ds_config)
    ds_config = fill_ds_config(
        given_ds_config,
        dtype=dtype,
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        accumulation=accumulation,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        hidden_size=shape.hidden_size,
    )
    num_steps = training.max_steps or num_steps_for(
        len(data.train_examples), training.epochs, training.global_batch_size
    )
    if num_steps == 0:
        raise InputError(f"--epochs {training.epochs:g}: not one of {len(data.train_examples)} examples would be seen")
    if config.adapter.adapter == "adalora":
        adapters.rank_schedule(num_steps)  # raises where there are too few steps
    num_examples = (
        num_steps * training.global_batch_size
        if training.max_steps
        else round(len(data.train_examples) * training.epochs)
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
        board=board,
        data=data,
        num_steps=num_steps,
        stream=ExampleStream(data.train_examples, training.seed, training.global_batch_size, num_examples),
        share=Share(world.rank, world.size, training.micro_batch_size, accumulation),
    )


def check_config(config: RunConfig, world: World) -> tuple[int, dict[str, Any]]:
    """(accumulation steps, DeepSpeed config as given): every check that needs no other rank and no model.

    Raises InputError for the first fault.
    """
    check_training_config(config.training)
    adapters.check_adapter_config(config.adapter)
    check_play_config(config.play)
    accumulation = accumulation_steps(config.training.global_batch_size, config.training.micro_batch_size, world.size)
    ds_config = read_ds_config(config.output.ds) if config.output.ds else build_ds_config(DEFAULT_STAGE)
    if config.model.base_dtype != "auto":
        base.choose_dtype(config.model.base_dtype, ds_config)
    for patterns in (config.data.data, config.data.eval_data):
        if patterns:
            resolve_paths(patterns)
    return accumulation, ds_config


def new_output_dir(given: str | None, grid_size: int) -> Path:
    """Make the run's directory. Raises InputError unless it is new or empty, and can be written."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
    default = f"logs/extensions/models/grid-size-{grid_size}/llm_finetune_v0.03_{stamp}"
    path = Path(given or default).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise InputError(f"--output-dir {path}: is not empty: name a new or an empty directory")
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as problem:
        raise InputError(f"--output-dir {path}: cannot be written ({problem.strerror})") from None
    return path
