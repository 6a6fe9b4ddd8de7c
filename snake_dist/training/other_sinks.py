"""TensorBoard and Trackio as sinks: the extras `tensorboard` and `trackio`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snake_dist.training.sinks import Sink


class TensorboardSink(Sink):
    """Event files in one directory, which all sessions of a run share."""

    def __init__(self, directory: Path, first_step: int) -> None:
        """`first_step`: steps done before this session; what an earlier one logged behind them is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=first_step + 1 if first_step else None)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class TrackioSink(Sink):
    """One Trackio run, in Trackio's own directory on this machine or where its environment variables say."""

    def __init__(self, project: str, name: str, group: str | None, run_config: dict[str, Any]) -> None:
        """`name`: of the run, which a later session of the same name continues."""
        import trackio

        self._run = trackio.init(project, name=name, group=group, config=run_config, resume="allow", embed=False)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()
