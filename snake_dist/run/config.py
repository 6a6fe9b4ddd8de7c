"""All flags of a run, as model, adapter, data, training, checkpoint, play and W&B define them; YAML recipes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from snake_dist.checkpoint.checkpoints import CheckpointConfig, check_checkpoint_config
from snake_dist.cli import parse_dataclass
from snake_dist.data.batching import accumulation_steps
from snake_dist.data.dataset import DataConfig
from snake_dist.errors import InputError, check_at_least
from snake_dist.evaluation.judging.match import PlayConfig, check_play_config
from snake_dist.model.adapters import AdapterConfig, check_adapter_config
from snake_dist.model.base import ModelConfig
from snake_dist.recipes import as_bool, dashed, flags_of, read_mapping
from snake_dist.training.config import TrainingConfig, check_training_config
from snake_dist.training.wandb_log import WandbConfig


@dataclass(frozen=True)
class OutputConfig:
    """Files of the run."""

    ds: str | None = None
    """DeepSpeed JSON with ZeRO stage, precision and offload, or the name of a ready one: zero0, zero1, zero2,
    zero2_offload, zero3, zero3_offload, zero3_hpz. The run replaces "auto". Default: zero2."""
    output_dir: str | None = None
    """New or empty directory, or with --resume auto the directory of the run to resume. Default:
    logs/extensions/models/grid-size-N/llm_finetune_v0.03_TIMESTAMP."""
    report_to: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ("wandb",)
    """Where metrics.jsonl's numbers go too. tensorboard and trackio are extras: pip install 'snake_dist[tensorboard]'.
    """
    profile: str | None = None
    """Profile these steps, FIRST-LAST, counted from 1: each rank writes profile/rank_R.json.gz, a trace for
    ui.perfetto.dev."""


@dataclass(frozen=True)
class RunConfig:
    """Fine-tune a language model on Snake, then judge it by playing."""

    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    play: PlayConfig = field(default_factory=PlayConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def flat(self) -> dict[str, Any]:
        """Return flag name without leading dashes -> value: what a recipe holds."""
        rooms = (getattr(self, room.name) for room in dataclasses.fields(self))
        return {name.replace("_", "-"): value for room in rooms for name, value in vars(room).items()}

    def to_yaml(self) -> str:
        """Return a recipe that `--config` reads back as an equal RunConfig."""
        import yaml

        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.flat().items()}
        return yaml.safe_dump(plain, sort_keys=False)


def parse_run_config(argv: Sequence[str]) -> RunConfig:
    """Return the RunConfig of a command line; flags override `--config RECIPE.yaml`.

    Raises InputError, in one line, for an unknown flag or value. `--help` prints and exits.
    """
    flags, recipe = list(argv), None
    if "--config" in flags:
        at = flags.index("--config")
        if at + 1 == len(flags):
            raise InputError("--config: the path of a YAML file is missing")
        recipe = flags[at + 1]
        del flags[at : at + 2]
    return parse_dataclass(RunConfig, [*(recipe_flags(recipe) if recipe else []), *flags])


def check_run_flags(flags: Sequence[str], world_size: int) -> None:
    """Raise InputError for flags with which train.py would fail on this many ranks, as far as flags alone can tell."""
    check_run_config(parse_run_config(flags), world_size)


def check_run_config(config: RunConfig, world_size: int) -> int:
    """Return the accumulation steps of a run on this many ranks. Raises InputError for values that no run can have."""
    check_training_config(config.training)
    check_adapter_config(config.adapter)
    check_play_config(config.play)
    check_checkpoint_config(config.checkpoint)
    check_at_least(config.data, eval_examples=1, sequence_length=2)
    if not 0 <= config.data.held_out_share < 1:
        raise InputError(
            f"--held-out-share {config.data.held_out_share:g}: from 0, which holds nothing out, to below 1"
        )
    if config.checkpoint.best_by == "play" and not config.play.eval_games:
        raise InputError("--best-by play contradicts --eval-games 0: training would play no games")
    return accumulation_steps(config.training.global_batch_size, config.training.micro_batch_size, world_size)


def sinks_in_use(output: OutputConfig, wandb: WandbConfig) -> list[str]:
    """Return the sinks that a run writes to, each once. Raises InputError for one whose package is not installed."""
    is_off = wandb.wandb_mode == "disabled"
    names: list[str] = [name for name in dict.fromkeys(output.report_to) if name != "wandb" or not is_off]
    for name in names:
        if find_spec(name) is None:
            package = name if name == "wandb" else f"'snake_dist[{name}]'"
            raise InputError(f"--report-to {name}: not installed here: pip install {package}")
    return names


def recipe_flags(path: str) -> list[str]:
    """Return the flags that a YAML recipe stands for. Raises InputError naming the file and key of a fault."""
    place = f"--config {path}"
    return flags_of(train_flags(read_mapping(Path(path).expanduser(), place), place), place)


def train_flags(mapping: Any, place: str) -> dict[str, Any]:
    """Return a recipe's mapping, its keys written as flags of train.py. Raises InputError naming an unknown key."""
    known = RunConfig().flat()
    flags = dashed(mapping, place)
    for name, value in flags.items():
        if name not in known:
            raise InputError(f"{place}: unknown key {name!r}: a flag of train.py without its dashes is expected")
        if isinstance(known[name], bool) and value is not None:
            flags[name] = "true" if as_bool(value, place, name) else "false"
    return flags
