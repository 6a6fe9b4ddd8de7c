"""Runs of scaling.py, from flags to steps: what their collectives move, and where the time of a step goes."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from benchmarks.scaling_clocks import Clocks, StepLog, counting_collectives, memory_mib, reset_peak


def collectives(argvs: list[list[str]]) -> list[dict[str, Any]]:
    """Of each run, bytes and calls of its last step, metrics and stop flags included, evaluation not."""
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare
    from snake_dist.run.session import Session
    from snake_dist.run.training import load_model, train_model

    found = []
    for argv in argvs:
        run = prepare(parse_run_config(argv), world_from_environment())
        model, collate = load_model(run)
        trainable = [p for p in model.parameters() if p.requires_grad]
        frozen = [p for p in model.parameters() if not p.requires_grad]
        snapshots: list[dict[str, dict[str, int]]] = []
        with counting_collectives() as counts:

            def at_step(_step: int, values: dict[str, float], counts: Any = counts, kept: Any = snapshots) -> None:
                if "train/loss" in values:
                    kept.append({what: dict(counter) for what, counter in counts.items()})

            train_model(run, model, collate, StepLog(at_step), Session(run))
        # From the log of the last step but one to that of the last: its end, and the whole of the next.
        before, after = snapshots[-2:]
        threshold = run.ds_config.get("zero_optimization", {}).get("stage3_param_persistence_threshold", 0)
        found.append(
            {
                what: {kind: n - before[what].get(kind, 0) for kind, n in after[what].items()}
                for what in ("bytes", "calls")
            }
            | {
                "trainable": sum(_size(p) for p in trainable),
                "element_bytes": trainable[0].element_size(),
                "sharded": sum(_size(p) for p in trainable + frozen if _size(p) > threshold),
                "persistent_trainable": sum(_size(p) for p in trainable if _size(p) <= threshold),
            }
        )
    return found


def _size(parameter: Any) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())


def steps(argv: list[str], wait_for_turn: bool) -> dict[str, Any]:
    """Train, with clocks on every part of a step.

    With `wait_for_turn` a step begins when a line comes on standard input, and its figures go out as one line:
    so several processes take turns.
    """
    from snake_dist.checkpoint import writer
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.data.batching import ExampleStream
    from snake_dist.data.dataset import TokenizedDataset
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare
    from snake_dist.run.session import Session
    from snake_dist.run.training import load_model, train_model
    from snake_dist.training import loop, trainer
    from snake_dist.training.metrics import MetricsLog, SilentLog

    began = float(os.environ["STARTED"])
    marks = {"imports": time.time() - began}
    run = prepare(parse_run_config(argv), world_from_environment())
    marks["data, checks, process group"] = time.time() - began
    model, collate = load_model(run)
    marks["model and adapter"] = time.time() - began

    clocks, per_step = Clocks(), []
    cycle_began, tokens = time.perf_counter(), 0
    for owner, name in ((ExampleStream, "step_examples"), (TokenizedDataset, "__getitem__")):
        setattr(owner, name, clocks.around("data", getattr(owner, name)))
    trainer.micro_batches = clocks.around("data", trainer.micro_batches)
    loop.step_metrics = clocks.around("metrics over ranks", loop.step_metrics)
    writer.commit = clocks.around("commit", writer.commit)
    step_itself = clocks.around("training step", loop.training_step)

    def training_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal cycle_began, tokens
        trainer, ids = args
        tokens = int(trainer.dataset.lengths[ids].sum())
        if wait_for_turn:
            sys.stdin.readline()
            cycle_began = time.perf_counter()
            clocks.seconds.clear()
        result = step_itself(*args, **kwargs)
        if "first step" not in marks:
            marks["first step"] = time.time() - began
        return result

    loop.training_step = training_step
    session = Session(run)
    session.after_step = clocks.around("stop flags and checkpoints", session.after_step)  # type: ignore[method-assign]
    path = run.output_dir / "metrics.jsonl"
    inner = MetricsLog(path, run.num_steps) if run.world.is_main else SilentLog()
    logged = clocks.around("logging", inner.log)
    saves: list[dict[str, float]] = []

    def at_step(step: int, values: dict[str, float]) -> None:
        nonlocal cycle_began
        logged(step, values)
        if "checkpoint/stall_s" in values:
            saves.append(values)
        if "train/loss" in values:
            now = time.perf_counter()
            seconds = now - cycle_began
            per_step.append({"seconds": seconds, "tokens_per_s": tokens / seconds, **clocks.seconds, **memory_mib()})
            cycle_began = now
            clocks.seconds.clear()
            if wait_for_turn:
                print("STEP " + json.dumps(per_step[-1]), flush=True)

    reset_peak()
    train_model(run, model, clocks.around("data", collate), StepLog(at_step), session)
    return {"marks": marks, "steps": per_step, "saves": saves, "memory": memory_mib(), "threads": _threads()}


def _threads() -> int:
    import torch

    return torch.get_num_threads()
