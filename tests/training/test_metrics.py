"""What a run says of its time."""

from __future__ import annotations

from itertools import count

from snake_dist.training import metrics
from snake_dist.training.metrics import LOSS, LOSS_TOKENS_PER_S, TOKENS_PER_S, MetricsLog


def test_the_time_left_is_estimated_once_after_a_few_steps(tmp_path, monkeypatch, capsys):
    clock = count(start=100, step=90)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    log = MetricsLog(tmp_path / "metrics.jsonl", num_steps=50)
    for step in range(1, 21):
        log.log(step, {LOSS: 1.0, TOKENS_PER_S: 1.0, LOSS_TOKENS_PER_S: 1.0})
    log.close()
    said = [line for line in capsys.readouterr().err.splitlines() if "about" in line]
    assert len(said) == 1
    assert "about 1:06:00 (h:mm:ss) of training left: 44 steps of 90 s" in said[0]
