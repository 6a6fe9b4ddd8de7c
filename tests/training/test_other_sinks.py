"""TensorBoard and Trackio get what metrics.jsonl gets, and a resumed run continues where it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from snake_dist.errors import InputError
from snake_dist.run import config
from snake_dist.run.config import OutputConfig, parse_run_config, sinks_in_use
from snake_dist.training.other_sinks import TensorboardSink, TrackioSink
from snake_dist.training.sinks import SinkThread, close_all
from snake_dist.training.wandb_log import WandbConfig
from tests.support.ranks import run_on_ranks

WHOLE = [(step, step / 4) for step in range(1, 7)]


def log_both(directory: Path) -> list[dict[str, Any]]:
    """On a rank: a session that loses its last step, and its resumption behind step 3; what Trackio then has."""
    os.environ["TRACKIO_DIR"] = str(directory / "trackio")
    for first_step, last_step in ((0, 4), (3, 6)):
        threads = [
            SinkThread("TensorBoard", lambda first=first_step: TensorboardSink(directory / "events", first)),  # type: ignore[misc]
            SinkThread("Trackio", lambda: TrackioSink("snakes", "run-1", "grid", {"rank": 4})),
        ]
        for step in range(first_step + 1, last_step + 1):
            for thread in threads:
                thread.call(lambda sink, step=step: sink.log(step, {"train/loss": step / 4}))  # type: ignore[misc]
        close_all(threads)
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("snakes") == ["run-1"]
    return SQLiteStorage.get_logs("snakes", "run-1")


def test_a_resumed_run_is_one_in_each(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [lines] = run_on_ranks(log_both, 1, tmp_path)
    assert sorted({(line["step"], line["train/loss"]) for line in lines}) == WHOLE
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == WHOLE


def test_a_sink_that_is_not_installed_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"--report-to trackio: not installed here: pip install 'snake_dist.trackio.'"):
        sinks_in_use(OutputConfig(report_to=("trackio",)), WandbConfig())
    with pytest.raises(InputError, match=r"--report-to wandb: not installed here: pip install wandb$"):
        sinks_in_use(OutputConfig(), WandbConfig(wandb_mode="offline"))
    assert sinks_in_use(OutputConfig(), WandbConfig(wandb_mode="disabled")) == []
    with pytest.raises(InputError, match="mlflow.*--report-to"):
        parse_run_config(["--report-to", "wandb", "mlflow"])
