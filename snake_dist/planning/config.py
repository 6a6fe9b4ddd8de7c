"""The flags of a plan, and their checks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from snake_dist.checkpoint.checkpoints import CheckpointConfig
from snake_dist.errors import InputError, check_at_least
from snake_dist.model import adapters, base

UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


@dataclass(frozen=True)
class PlanConfig:
    """Machines, batches and assumptions."""

    gpus: int = 1
    """Number of GPUs, one rank on each."""
    gpus_per_node: int = 8
    """GPUs on each node."""
    gpu_memory: str = "80GiB"
    """Memory of one GPU: a number and GiB, MiB, GB or MB."""
    reserve: str = "1.5GiB"
    """Memory of each GPU for the CUDA context, NCCL and the allocator's gaps: an assumption, not measured."""
    ds: str | None = None
    """Plan for this DeepSpeed JSON instead of comparing the ZeRO stages."""
    write_ds: Path | None = None
    """Write the recommended DeepSpeed JSON here."""
    micro_batch_size: int = 4
    """Examples per forward pass and rank."""
    global_batch_size: int | None = None
    """Examples per optimizer step over all ranks; default: one micro-batch per rank."""
    sequence_length: int = 1024
    """Tokens of the longest example: memory is planned for a micro-batch of such examples."""
    mean_length: int | None = None
    """Tokens of an example on average, for times; default: half of --sequence-length."""
    trained_share: float = 0.4
    """Share of the tokens that are trained (those of the completions); only they get logits."""
    data: tuple[str, ...] = ()
    """JSONL files, directories or globs: the plan takes number, lengths and trained share of the examples from them."""
    examples: int | None = None
    """Number of training examples, for steps and hours; --data replaces it."""
    epochs: float = 1.0
    """Passes over the examples."""
    peak_tflops: float = 312.0
    """Peak of one GPU in the compute dtype, in TFLOP/s; default: NVIDIA A100, bf16, dense, by its data sheet."""
    efficiency: float = 0.35
    """Share of the peak that a step reaches: an assumption."""
    tokens_per_s: float | None = None
    """Measured tokens/s of one rank; replaces --peak-tflops and --efficiency."""
    node_gb_per_s: float = 300.0
    """Bandwidth of each GPU inside a node, each way, in GB/s; default: A100's NVLink (PCIe 4.0 x16 has 32)."""
    network_gb_per_s: float = 25.0
    """Bandwidth of each node to the others, each way, in GB/s; default: one 200 Gbit/s port."""
    latency_us: float = 20.0
    """Latency of each hop of a collective, in microseconds: an assumption."""
    save_every: int = CheckpointConfig.save_every
    """Steps between checkpoints."""


@dataclass(frozen=True)
class Plan:
    """Plan a run: what fits into memory, and what it costs. Planning loads no weights and needs no GPU."""

    model: base.ModelConfig = field(default_factory=base.ModelConfig)
    adapter: adapters.AdapterConfig = field(default_factory=adapters.AdapterConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)


def rank_bytes(config: PlanConfig) -> float:
    """Check the flags that no other room checks, and return the bytes that a rank may use. Raises InputError."""
    check_at_least(config, gpus=1, gpus_per_node=1, micro_batch_size=1, sequence_length=1)
    for name in ("trained_share", "efficiency"):
        if not 0 < getattr(config, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: greater than 0 and at most 1")
    for name in ("tokens_per_s", "peak_tflops", "node_gb_per_s", "network_gb_per_s", "epochs"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} {value}: greater than 0")
    memory = parse_bytes("--gpu-memory", config.gpu_memory) - parse_bytes("--reserve", config.reserve)
    if memory <= 0:
        raise InputError(f"--gpu-memory {config.gpu_memory}: must exceed --reserve {config.reserve}")
    return memory


def parse_bytes(flag: str, text: str) -> float:
    """Convert "24GiB" to bytes. Raises InputError, naming the flag."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|MiB|GB|MB)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"{flag} {text!r}: must be a number above 0 and one of {', '.join(UNITS)}, such as 24GiB")
    return float(match[1]) * UNITS[match[2]]
