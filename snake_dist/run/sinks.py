"""The sinks of a run, as --report-to and the W&B flags say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from snake_dist.files import TENSORBOARD
from snake_dist.run.config import sinks_in_use
from snake_dist.training.other_sinks import TensorboardSink, TrackioSink
from snake_dist.training.sinks import Sink, SinkThread
from snake_dist.training.wandb_log import open_wandb

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run


def open_sinks(run: Run, shown: dict[str, Any], run_id: str) -> list[SinkThread]:
    """Return the sinks of `run`, each on its thread. `shown`: beside the numbers; `run_id`: of all sessions."""
    wandb, directory = run.config.wandb, run.output_dir
    name = wandb.wandb_name or directory.name
    chosen: dict[str, tuple[str, Callable[[], Sink]]] = {
        "wandb": ("W&B", partial(open_wandb, wandb, directory, shown, run_id)),
        "tensorboard": ("TensorBoard", partial(TensorboardSink, directory / TENSORBOARD, run.first_step)),
        "trackio": (
            "Trackio",
            partial(TrackioSink, str(wandb.wandb_project), f"{name}-{run_id}", wandb.wandb_group, shown),
        ),
    }
    return [SinkThread(*chosen[name]) for name in sinks_in_use(run.config.output, wandb)]
