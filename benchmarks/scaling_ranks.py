"""What the processes of scaling.py run: the package's own way from flags to steps, with clocks and counters around."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any


def memory_mib() -> dict[str, float]:
    """Memory of this process in MiB: its own now, mapped files now, the highest of both together."""
    names = {"RssAnon": "own", "RssFile": "mapped", "VmHWM": "peak"}
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {short: int(fields[name].split()[0]) / 1024 for name, short in names.items()}


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Clocks:
    """Seconds by name, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return timed


class StepLog:
    """Stands where a run's MetricsLog would, on every rank."""

    wandb_run_id = None

    def __init__(self, at_step: Callable[[int, dict[str, float]], None]) -> None:
        self.log = at_step

    def sync(self) -> None: ...

    def close_bar(self) -> None: ...


@contextmanager
def counting_collectives() -> Iterator[dict[str, Counter[str]]]:
    """{"bytes": by kind of collective (whole messages), "calls": by kind} of everything inside, filled as it goes on.

    Counted where PyTorch dispatches them, whoever calls: DeepSpeed, this package, pickled objects.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    counts: dict[str, Counter[str]] = {"bytes": Counter(), "calls": Counter()}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(operation)
            if name.startswith("c10d.") and "barrier" not in name:
                kind = name.split(".")[1]
                sizes = [t.numel() * t.element_size() for t in tree_iter(args) if isinstance(t, torch.Tensor)]
                # The whole message is the largest tensor that the call is given, or the parts together.
                counts["bytes"][kind] += max(max(sizes), sum(sizes) - min(sizes))
                counts["calls"][kind] += 1
            return operation(*args, **(kwargs or {}))

    with Count():
        yield counts


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

            train_model(run, model, collate, StepLog(at_step), Session(run))  # type: ignore[arg-type]
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
    train_model(run, model, clocks.around("data", collate), StepLog(at_step), session)  # type: ignore[arg-type]
    return {"marks": marks, "steps": per_step, "saves": saves, "memory": memory_mib(), "threads": _threads()}


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def start(argv: list[str]) -> dict[str, Any]:
    """A start up to the examples of three steps, without the model: its seconds and memory, before and after."""
    import deepspeed  # noqa: F401

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.data.tokenization import is_among
    from snake_dist.run.board import find_board
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.data import prepare_data
    from snake_dist.run.preparation import prepare

    config, world = parse_run_config(argv), world_from_environment()
    reset_peak()
    began, before = time.perf_counter(), memory_mib()
    run = prepare(config, world)
    everything = time.perf_counter() - began
    again = []
    for _ in range(5):
        began = time.perf_counter()
        data = prepare_data(config, world, find_board(config), run.tokenizer, run.shape.max_positions)
        again.append(time.perf_counter() - began)
    began = time.perf_counter()
    for step in range(3):
        for micro in run.share.micro_batches(run.stream.step_examples(step), run.data.dataset.lengths):
            for example in micro:
                run.data.dataset[example]
    steps_s = (time.perf_counter() - began) / 3
    is_among(1, data.dataset.prompt_hashes)
    after = memory_mib()
    return {
        "lines": len(data.dataset),
        "prepare_s": everything,
        "data_s": median(again),
        "step_data_s": steps_s,
        "own_mib": after["own"] - before["own"],
        "mapped_mib": after["mapped"] - before["mapped"],
        "peak_mib": after["peak"] - before["own"] - before["mapped"],
    }


def tokenize_speed(argv: list[str]) -> dict[str, Any]:
    """Seconds of tokenizing files for the first time, which a run's start does."""
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.data import dataset
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare

    clocks = Clocks()
    dataset.tokenize = clocks.around("tokenize", dataset.tokenize)
    run = prepare(parse_run_config(argv), world_from_environment())
    return {
        "seconds": clocks.seconds["tokenize"],
        "lines": len(run.data.dataset),
        "cache": str(run.data.dataset.directory),
        "tokens": run.data.dataset.meta["num_tokens"],
        **memory_mib(),
    }


def logits(vocabulary: int, num_examples: int, length: int, trained: int, plainly: bool) -> dict[str, float]:
    """Peak MiB above the model of one forward and backward pass over `num_examples` packed examples of `length`."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from snake_dist.data.packing import Example, pack
    from snake_dist.model.packing_proof import use_packed_attention
    from snake_dist.training.loss import forward_trained, loss_sum

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=16384, **shape)).bfloat16()
    model.requires_grad_(False)
    use_packed_attention(model)
    for parameter in model.model.layers.parameters():
        parameter.requires_grad_(True)
    generator = np.random.default_rng(0)
    batch = pack([Example(generator.integers(1, 256, length), length - trained) for _ in range(num_examples)])

    def once() -> None:
        if plainly:  # what a model's own loss does: every logit, in fp32
            every_logit = model(**batch.inputs, use_cache=False).logits[0].float()
            labels = torch.full((len(every_logit),), -100)
            labels[batch.columns_C] = batch.labels_K
            torch.nn.functional.cross_entropy(every_logit, labels, reduction="sum").backward()
        else:
            logits_KV, labels_K, _ = forward_trained(model, batch)
            loss_sum(logits_KV, labels_K).backward()
        model.zero_grad()

    with torch.no_grad():
        model.model(**pack([Example(np.arange(1, 40), 1)] * 2).inputs, use_cache=False)
    reset_peak()
    before = memory_mib()
    once()
    return {"peak_mib": memory_mib()["peak"] - before["own"] - before["mapped"]}


TASKS: dict[str, Callable[..., Any]] = {
    "collectives": collectives,
    "steps": partial(steps, wait_for_turn=False),
    "steps in turns": partial(steps, wait_for_turn=True),
    "start": start,
    "tokenize": tokenize_speed,
    "logits": logits,
}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    outcome = TASKS[sys.argv[1]](*json.loads(sys.argv[2]))
    print("RESULT " + json.dumps(outcome), flush=True)
