"""A plan for a run, before anything is queued: what fits, what it costs. `launcher/plan.py` prints it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snake_dist.checkpoint.checkpoints import CheckpointConfig
from snake_dist.data.batching import accumulation_steps
from snake_dist.data.dataset import dataset_cache, open_dataset
from snake_dist.errors import InputError, check_at_least
from snake_dist.model import adapters, base
from snake_dist.planning.choice import Choice, recommend
from snake_dist.planning.communication import Links
from snake_dist.planning.memory import rank_memory
from snake_dist.planning.model_sizes import describe_model
from snake_dist.planning.shapes import MicroBatch, ModelSizes, Setup
from snake_dist.planning.step_time import Speed
from snake_dist.zero.config import REDUCE_BUCKET, build_ds_config, check_pair, read_ds_config, zero_stage

UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


@dataclass(frozen=True)
class PlanConfig:
    """Machines, batches and assumptions."""

    gpus: int = 1
    """Ranks in all."""
    gpus_per_node: int = 8
    """Ranks of one node."""
    gpu_memory: str = "80GiB"
    """Memory of one GPU: a number and GiB, MiB, GB or MB."""
    reserve: str = "1.5GiB"
    """Kept free on each GPU for the CUDA context, NCCL and the allocator's gaps: an assumption, not measured."""
    ds: str | None = None
    """Plan for this DeepSpeed JSON instead of comparing the stages."""
    write_ds: Path | None = None
    """Write the recommended DeepSpeed JSON here."""
    micro_batch_size: int = 4
    """Examples per forward pass and rank."""
    global_batch_size: int | None = None
    """Examples per optimizer step over all ranks; default: one micro-batch a rank."""
    sequence_length: int = 1024
    """Tokens of the longest example: memory is planned for a micro-batch of such."""
    mean_length: int | None = None
    """Tokens of an example on average, for times; default: half of --sequence-length."""
    trained_share: float = 0.4
    """Share of the tokens that are trained (the completion's); only they get logits."""
    data: tuple[str, ...] = ()
    """JSONL files, directories or globs: number, lengths and trained share of the examples are taken from them."""
    examples: int | None = None
    """Training examples, for steps and hours, if there is no --data."""
    epochs: float = 1.0
    """Passes over them."""
    peak_tflops: float = 312.0
    """Peak of one GPU in the compute dtype, in TFLOP/s. Default: NVIDIA A100, bf16, dense, by its data sheet."""
    efficiency: float = 0.35
    """Share of the peak that a step reaches: an assumption."""
    tokens_per_s: float | None = None
    """Measured tokens/s of one rank; replaces --peak-tflops and --efficiency."""
    node_gb_per_s: float = 300.0
    """Each way per GPU inside a node, in GB/s. Default: A100's NVLink by its data sheet; PCIe 4.0 x16 has 32."""
    network_gb_per_s: float = 25.0
    """Each way per node between nodes, in GB/s. Default: one 200 Gbit/s port."""
    latency_us: float = 20.0
    """Per hop of a collective, in microseconds: an assumption."""
    save_every: int = CheckpointConfig.save_every
    """Steps between checkpoints."""


@dataclass(frozen=True)
class Plan:
    """Plan a run: what fits, what it costs. No weights are loaded; nothing needs a GPU."""

    model: base.ModelConfig = field(default_factory=base.ModelConfig)
    adapter: adapters.AdapterConfig = field(default_factory=adapters.AdapterConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)


@dataclass(frozen=True)
class Planned:
    """Everything that a plan says."""

    model: ModelSizes
    batch: MicroBatch
    """The largest micro-batch: all examples as long as the longest."""
    mean_batch: MicroBatch
    """The usual one, for times."""
    accumulation: int
    memory: float
    """Bytes a rank may use."""
    setups: dict[str, Setup]
    """What is compared, by name."""
    choice: Choice
    speed: Speed
    num_examples: int | None
    """Training examples, if known."""


def parse_bytes(flag: str, text: str) -> float:
    """Bytes of "24GiB". Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|MiB|GB|MB)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(
            f"{flag} {text!r}: a number greater than 0 and one of {', '.join(UNITS)} is expected, as in 24GiB"
        )
    return float(match[1]) * UNITS[match[2]]


def make_plan(flags: Plan) -> Planned:
    """Check the flags, read the model's configuration, weigh the stages. Raises InputError."""
    config = flags.plan
    check_at_least(config, gpus=1, gpus_per_node=1, micro_batch_size=1, sequence_length=1)
    for name in ("trained_share", "efficiency"):
        if not 0 < getattr(config, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: greater than 0 and at most 1")
    if config.tokens_per_s is not None and not config.tokens_per_s > 0:
        raise InputError(f"--tokens-per-s {config.tokens_per_s}: greater than 0")
    for name in ("peak_tflops", "node_gb_per_s", "network_gb_per_s", "epochs"):
        if not getattr(config, name) > 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(config, name)}: greater than 0")
    memory = parse_bytes("--gpu-memory", config.gpu_memory) - parse_bytes("--reserve", config.reserve)
    if memory <= 0:
        raise InputError(f"--gpu-memory {config.gpu_memory}: not more than --reserve {config.reserve}")
    batch_size = config.global_batch_size or config.gpus * config.micro_batch_size
    accumulation = accumulation_steps(batch_size, config.micro_batch_size, config.gpus)
    adapters.check_adapter_config(flags.adapter)
    given = read_ds_config(config.ds) if config.ds else None
    model = describe_model(flags.model, flags.adapter)

    data = measure_data(flags) if config.data else None
    longest, mean, trained_share, num_examples = data or (
        config.sequence_length,
        config.mean_length or max(1, config.sequence_length // 2),
        config.trained_share,
        config.examples,
    )
    batch = MicroBatch(config.micro_batch_size, longest, trained_share)
    own = _setup(flags, model)
    setups = _setups(own, given)
    fixed = None
    if given is not None:
        check_pair(given, flags.adapter.adapter)
        [setup] = setups.values()
        needed = rank_memory(model, setup, batch, accumulation).total
        fixed = Choice(setup, f"--ds {config.ds} says so", fits=needed <= memory)
    links = Links(
        config.gpus_per_node, 1e9 * config.node_gb_per_s, 1e9 * config.network_gb_per_s, 1e-6 * config.latency_us
    )
    return Planned(
        model=model,
        batch=batch,
        mean_batch=replace(batch, tokens_per_example=mean),
        accumulation=accumulation,
        memory=memory,
        setups=setups,
        choice=fixed or recommend(model, own, batch, memory),
        speed=Speed(1e12 * config.peak_tflops, config.efficiency, links, config.tokens_per_s),
        num_examples=num_examples,
    )


def measure_data(flags: Plan) -> tuple[int, int, float, int]:
    """(tokens of the longest example, of the average one, trained share, number) of --data. Raises InputError."""
    tokenizer = base.load_tokenizer(base.find_base(flags.model), trust_remote_code=flags.model.trust_remote_code)
    dataset = open_dataset(
        flags.plan.data, tokenizer=tokenizer, bad_lines="stop", cache=dataset_cache(), for_training=True
    )
    lengths = dataset.lengths
    share = float(dataset.num_loss_tokens.sum() / lengths.sum())
    return int(lengths.max()), round(float(lengths.mean())), share, len(lengths)


def _setup(flags: Plan, model: ModelSizes) -> Setup:
    """What the flags say about any stage."""
    dtype = "bfloat16" if flags.model.base_dtype == "auto" else flags.model.base_dtype
    return Setup(
        stage=0,
        num_ranks=flags.plan.gpus,
        dtype=dtype,
        nf4=flags.adapter.adapter in adapters.QUANTIZATION,
        dropout=adapters.adapter_size(flags.adapter).dropout,
        gradient_checkpointing=flags.model.gradient_checkpointing,
        hpz_ranks=flags.plan.gpus_per_node if flags.plan.gpus > flags.plan.gpus_per_node else 0,
        reduce_bucket=reduce_bucket(model),
        prefetch_bucket=round(0.9 * model.hidden_size**2),
        persistence_threshold=10 * model.hidden_size,
    )


def reduce_bucket(model: ModelSizes) -> int:
    """Elements of the gradient bucket: no more than there are gradients, and no more than in our DeepSpeed files."""
    return min(REDUCE_BUCKET, model.num_trainable)


def _setups(own: Setup, given: dict[str, Any] | None) -> dict[str, Setup]:
    if given is None:
        setups = {f"ZeRO {stage}": replace(own, stage=stage) for stage in range(4)}
        offloaded = replace(own, stage=3, offload_optimizer=True, offload_parameters=True, hpz_ranks=0)
        return setups | {"3+offload": offloaded}
    zero = given.get("zero_optimization", {})

    def value(key: str, default: int) -> int:
        return default if zero.get(key, "auto") == "auto" else int(zero[key])

    def on_host(key: str) -> bool:
        return (zero.get(key) or {}).get("device", "none") != "none"

    setup = replace(
        own,
        stage=zero_stage(given),
        offload_optimizer=on_host("offload_optimizer"),
        offload_parameters=on_host("offload_param"),
        reduce_bucket=zero.get("reduce_bucket_size", 500_000_000)
        if zero.get("reduce_bucket_size") != "auto"
        else own.prefetch_bucket,
        overlap_comm=bool(zero.get("overlap_comm", False)),
        hpz_ranks=own.hpz_ranks if zero.get("zero_hpz_partition_size", 1) != 1 else 0,
        max_live=value("stage3_max_reuse_distance", own.max_live),
        prefetch_bucket=value("stage3_prefetch_bucket_size", own.prefetch_bucket),
        persistence_threshold=value("stage3_param_persistence_threshold", own.persistence_threshold),
    )
    return {f"ZeRO {setup.stage}": setup}


def recommended_ds_config(planned: Planned) -> dict[str, Any]:
    """The DeepSpeed JSON of the recommended setup; batch sizes stay with the run's flags."""
    setup = planned.choice.setup
    offload = "all" if setup.offload_parameters else "optimizer" if setup.offload_optimizer else "none"
    ds_config = build_ds_config(setup.stage, offload=offload, nodes=2 if setup.hpz_ranks else 1)
    if setup.stage:
        ds_config["zero_optimization"]["reduce_bucket_size"] = setup.reduce_bucket
    return ds_config
