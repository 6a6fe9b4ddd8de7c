"""Predicted against measured peak memory of real DeepSpeed ranks on this machine's CPUs. Prints a Markdown table.

python benchmarks/plan_memory.py            all cases, each in fresh processes (about a minute each)
python benchmarks/plan_memory.py 0 3        some of them

Measured is the highest resident size from the start of training on (three steps, DeepSpeed's start included), less
what the same program needs for a model of 30,000 weights: interpreter, libraries, process group. glibc is set to give
freed blocks back at once (MALLOC_MMAP_THRESHOLD_), so that what is resident is what is alive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    ranks: int
    stage: int
    adapter: str = "lora"
    dtype: str = "bfloat16"
    rank: int = 16
    dropout: float = 0.0
    examples: int = 2
    length: int = 768
    trained: int = 256
    accumulation: int = 1
    checkpointing: bool = False
    model: str = "llama"
    """llama (SHAPE, byte tokenizer), wide (the same with 32,000 tokens in its vocabulary) or smollm2-135m."""


CASES = (
    Case(1, 0),
    Case(1, 3),
    Case(2, 0),
    Case(2, 1, rank=64),
    Case(2, 2, rank=64),
    Case(2, 3, rank=64),
    Case(2, 2, rank=64, accumulation=2),
    Case(1, 2, dtype="float32", dropout=0.05),
    Case(2, 3, dtype="float32"),
    Case(1, 2, adapter="dora"),
    Case(1, 2, adapter="qlora"),
    Case(1, 2, adapter="adalora"),
    Case(1, 2, examples=1, length=1536),
    Case(1, 2, examples=6, length=384),
    Case(1, 2, model="wide", trained=512),
    Case(1, 2, model="wide", trained=256, checkpointing=True, examples=4),
    Case(1, 2, model="smollm2-135m", examples=1, length=512),
    Case(2, 3, model="smollm2-135m", examples=1, length=512),
)


def model_directory(case: Case, root: Path) -> str:
    """The model of a case, made on first use; stored in another dtype than it trains in, so that it is copied."""
    from tests.support.tiny_models import tiny_llama

    if case.model == "smollm2-135m":
        return case.model
    directory = root / f"{case.model}-{case.dtype}"
    if not directory.exists():
        import torch
        from transformers import AutoModelForCausalLM

        shape = {} if case.model == "tiny" else SHAPE | ({"vocab_size": 32000} if case.model == "wide" else {})
        tiny_llama(directory, initializer_range=0.05, **shape)
        if case.dtype == "float32":
            AutoModelForCausalLM.from_pretrained(directory).to(torch.bfloat16).save_pretrained(directory)
    return str(directory)


def data_file(case: Case, root: Path) -> str:
    """Lines of exactly the case's length: for SmolLM2 a word is a token, for the byte tokenizer a letter."""
    path = root / f"{case.model == 'smollm2-135m'}-{case.length}-{case.trained}.jsonl"
    letter = " a" if case.model == "smollm2-135m" else "x"
    with path.open("w") as lines:
        for number in range(24):
            prompt = f"{number % 10}" + letter * (case.length - case.trained - 1)
            lines.write(json.dumps({"prompt": prompt, "completion": letter * (case.trained - 1)}) + "\n")
    return str(path)


def command_line(case: Case, root: Path) -> list[str]:
    """train.py's flags for a case."""
    data = data_file(case, root)
    flags: dict[str, Any] = {
        "base-model": model_directory(case, root),
        "data": data,
        "eval-data": data_file(replace(case, length=64, trained=32), root),
        "output-dir": tempfile.mkdtemp(dir=root),
        "ds": str(ROOT / f"ds_configs/zero{case.stage}.json"),
        "base-dtype": case.dtype,
        "adapter": case.adapter,
        "rank": case.rank,
        "dropout": case.dropout,
        "micro-batch-size": case.examples,
        "global-batch-size": case.examples * case.ranks * case.accumulation,
        "max-steps": 3,
        "eval-every": 0,
        "play-games": 0,
        "sequence-length": 4096,
        "wandb-mode": "disabled",
    }
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))] + (
        ["--gradient-checkpointing"] if case.checkpointing else []
    )


def resident_peak() -> int:
    """Highest resident size of this process in bytes since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def work(argv: list[str]) -> None:
    """What each rank runs: the package's own way from flags to a trained adapter."""
    import torch

    torch.set_num_threads(1)
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare
    from snake_dist.run.session import Session
    from snake_dist.run.training import load_model, train_model
    from snake_dist.training.metrics import SilentLog

    run = prepare(parse_run_config(argv), world_from_environment())
    model, collate = load_model(run)
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    train_model(run, model, collate, SilentLog(), Session(run))
    if run.world.is_main:
        print(f"PEAK {resident_peak()} {int(run.data.dataset.lengths.max())}")


def measured_peak(case: Case, root: Path) -> tuple[int, int]:
    """(bytes, tokens of the longest example) of rank 0."""
    from tests.support.processes import free_port

    port = free_port()
    argv = json.dumps(command_line(case, root))
    ranks = []
    for rank in range(case.ranks):
        env = os.environ | SETTINGS | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.ranks)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--rank", argv]
        ranks.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    printed = [process.communicate() for process in ranks]
    for line in printed[0][0].splitlines():
        if line.startswith("PEAK "):
            peak, length = line.split()[1:]
            return int(peak), int(length)
    raise RuntimeError(printed[0][1][-3000:])


def predicted_peak(case: Case, length: int, root: Path) -> float:
    from snake_dist.model.adapters import AdapterConfig
    from snake_dist.model.base import ModelConfig
    from snake_dist.planning.memory import rank_memory
    from snake_dist.planning.model_sizes import describe_model
    from snake_dist.planning.shapes import MicroBatch, Setup

    adapter = AdapterConfig(adapter=case.adapter, rank=case.rank, dropout=case.dropout)  # type: ignore[arg-type]
    model = describe_model(ModelConfig(base_model=model_directory(case, root)), adapter)
    setup = Setup(
        stage=case.stage,
        num_ranks=case.ranks,
        dtype=case.dtype,
        nf4=case.adapter == "qlora",
        on_cpu=True,
        dropout=case.dropout,
        gradient_checkpointing=case.checkpointing,
        prefetch_bucket=round(0.9 * model.hidden_size**2),
        persistence_threshold=10 * model.hidden_size,
    )
    batch = MicroBatch(case.examples, length, case.trained / length)
    return rank_memory(model, setup, batch, case.accumulation).total


def main(chosen: list[int]) -> None:
    constants: dict[tuple[str, bool], int] = {}
    print("| ranks | ZeRO | what | batch | measured MiB | predicted MiB | error |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for case in [CASES[index] for index in chosen] or CASES:
            key = case.dtype, case.stage == 3
            if key not in constants:
                small = Case(1, case.stage, dtype=case.dtype, examples=1, length=64, trained=32, model="tiny")
                constants[key] = measured_peak(small, root)[0]
            peak, length = measured_peak(case, root)
            measured, predicted = peak - constants[key], predicted_peak(case, length, root)
            what = f"{case.model}, {case.adapter} r={case.rank}, {case.dtype}"
            what += f", dropout {case.dropout}" * bool(case.dropout) + ", checkpointing" * case.checkpointing
            batch = f"{case.examples} x {length}, {case.trained} trained" + f", x{case.accumulation}" * (
                case.accumulation > 1
            )
            print(
                f"| {case.ranks} | {case.stage} | {what} | {batch} | {measured / 2**20:.0f} | {predicted / 2**20:.0f} "
                f"| {predicted / measured - 1:+.1%} |",
                flush=True,
            )
    constant_text = ", ".join(f"{dtype}{' ZeRO 3' * z3}: {size >> 20}" for (dtype, z3), size in constants.items())
    print(f"\nLess the constant part, in MiB: {constant_text}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # of this checkout only the package is installed
    if sys.argv[1:2] == ["--rank"]:
        work(json.loads(sys.argv[2]))
    else:
        main([int(argument) for argument in sys.argv[1:]])
