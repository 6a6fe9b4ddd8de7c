"""Predicted against measured ratios of step times on one and two ranks of this machine. Prints a Markdown table.

python benchmarks/plan_step_time.py

Process CPU time of a rank, not wall time, so that other work on the machine does not count; all variants of a world
take turns step by step; medians of ROUNDS steps. The cost of a collective is measured as CPU time per byte beside them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from snake_dist.planning.communication import step_collectives
from snake_dist.planning.shapes import MicroBatch, ModelSizes, Setup
from snake_dist.planning.step_time import micro_batch_flops

ROUNDS = 5
# name -> (ranks, ZeRO stage, examples, tokens each, gradient checkpointing)
VARIANTS = {
    "one rank, 4 x 128": (1, 0, 4, 128, False),
    "twice the examples": (1, 0, 8, 128, False),
    "longer examples: 4 x 256": (1, 0, 4, 256, False),
    "gradient checkpointing": (1, 0, 4, 128, True),
    "two ranks, ZeRO 2, 4 x 128 each": (2, 2, 4, 128, False),
    "two ranks, ZeRO 3, 4 x 128 each": (2, 3, 4, 128, False),
}


def time_steps(runs: list[list[str]]) -> dict[str, Any]:
    """On each rank: median CPU seconds of a step of each run, and of a byte of a collective."""
    import torch

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare
    from snake_dist.run.training import load_model
    from snake_dist.training.loop import training_step
    from snake_dist.training.trainer import Trainer
    from snake_dist.zero.engine import start_engine

    prepared = []
    for argv in runs:
        run = prepare(parse_run_config(argv), world_from_environment())
        model, collate = load_model(run)
        engine = start_engine(model, run.ds_config)
        prepared.append(Trainer(engine, run.data.dataset, run.stream, run.share, collate, run.config.training))
    seconds: list[list[float]] = [[] for _ in runs]
    for step in range(ROUNDS + 2):
        for number, trainer in enumerate(prepared):
            started = time.process_time()
            training_step(trainer, trainer.stream.step_examples(step), step=step)
            if step >= 2:  # the first ones allocate, and record ZeRO-3's order of modules
                seconds[number].append(time.process_time() - started)
    per_byte = []
    shard = torch.zeros(1 << 20)
    whole = torch.empty(shard.numel() * torch.distributed.get_world_size())
    for _ in range(ROUNDS):
        started = time.process_time()
        torch.distributed.all_gather_into_tensor(whole, shard)
        per_byte.append((time.process_time() - started) / (4 * whole.numel()))
    return {"seconds": [median(times) for times in seconds], "per_byte": median(per_byte)}


def argv_of(name: str, root: Path) -> list[str]:
    from benchmarks.plan_memory import Case, command_line

    ranks, stage, examples, length, checkpointing = VARIANTS[name]
    case = Case(ranks, stage, dtype="float32", examples=examples, length=length, trained=32)
    argv = command_line(replace(case, checkpointing=checkpointing), root)
    argv[argv.index("--max-steps") + 1] = str(ROUNDS + 2)
    return argv


def predicted(name: str, model: ModelSizes, reference: float, per_byte: float) -> float:
    """CPU time of a step over that of the first variant: operations, and bytes at the measured cost of a byte."""
    ranks, stage, examples, length, checkpointing = VARIANTS[name]
    setup = Setup(stage, ranks, "float32", on_cpu=True, gradient_checkpointing=checkpointing)
    # What "one rank, 4 x 128" takes for its operations is what an operation takes.
    first = micro_batch_flops(model, Setup(0, 1), MicroBatch(4, 128, 0.25))
    flops = micro_batch_flops(model, setup, MicroBatch(examples, length, 32 / length))
    sent = sum(one.message_bytes * (2 if one.kind == "all-reduce" else 1) for one in step_collectives(model, setup))
    return flops / first + sent * per_byte / reference


def main() -> None:
    from snake_dist.model.adapters import AdapterConfig
    from snake_dist.model.base import ModelConfig
    from snake_dist.planning.model_sizes import describe_model
    from tests.support import ranks as rank_runner

    rank_runner.TIMEOUT_S = 1800.0  # a busy machine takes its time

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        argvs = {name: argv_of(name, root) for name in VARIANTS}
        model_dir = argvs["one rank, 4 x 128"][1]
        model = describe_model(ModelConfig(base_model=model_dir), AdapterConfig(rank=16))
        worlds = {ranks: [name for name in VARIANTS if VARIANTS[name][0] == ranks] for ranks in (1, 2)}
        found = {
            ranks: rank_runner.run_on_ranks(time_steps, ranks, [argvs[name] for name in names])[0]
            for ranks, names in worlds.items()
        }
    measured = {
        name: seconds
        for ranks, names in worlds.items()
        for name, seconds in zip(names, found[ranks]["seconds"], strict=True)
    }
    reference = measured["one rank, 4 x 128"]
    print("| step | measured ratio | predicted ratio |\n|---|---|---|")
    for name, seconds in measured.items():
        ratio = predicted(name, model, reference, found[2]["per_byte"])
        print(f"| {name} | {seconds / reference:.2f} | {ratio:.2f} |")
    print(f"\nA byte of a collective costs {found[2]['per_byte'] * 1e9:.2f} ns of CPU time on two ranks.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of this checkout only the package is installed
    main()
