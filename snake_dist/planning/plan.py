"""A plan for a run before it is queued: what fits into memory, and what the run costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from snake_dist.data.batching import accumulation_steps
from snake_dist.data.dataset import dataset_cache, open_dataset
from snake_dist.model import adapters, base
from snake_dist.planning.choice import Choice, recommend
from snake_dist.planning.communication import Links
from snake_dist.planning.config import Plan, rank_bytes
from snake_dist.planning.memory import rank_memory
from snake_dist.planning.model_sizes import describe_model
from snake_dist.planning.setups import base_setup, compared_setups, setup_of
from snake_dist.planning.shapes import MicroBatch, ModelSizes, Setup
from snake_dist.planning.step_time import Speed
from snake_dist.zero.config import check_pair, read_ds_config


@dataclass(frozen=True)
class Planned:
    """A plan, which `text.render_plan` prints."""

    model: ModelSizes
    batch: MicroBatch
    """The largest micro-batch, for memory: all of its examples are as long as the longest."""
    mean_batch: MicroBatch
    """The average micro-batch, for times."""
    accumulation: int
    memory: float
    """Bytes that a rank may use."""
    setups: dict[str, Setup]
    """The setups to compare, by name."""
    choice: Choice
    speed: Speed
    num_examples: int | None
    """Number of training examples, if known."""


def make_plan(flags: Plan) -> Planned:
    """Check the flags, read the model's configuration, compare the setups. Raises InputError."""
    config = flags.plan
    memory = rank_bytes(config)
    batch_size = config.global_batch_size or config.gpus * config.micro_batch_size
    accumulation = accumulation_steps(batch_size, config.micro_batch_size, config.gpus)
    adapters.check_adapter_config(flags.adapter)
    ds_config = read_ds_config(config.ds) if config.ds else None
    model = describe_model(flags.model, flags.adapter)

    longest, mean, trained_share, num_examples = (
        measure_data(flags)
        if config.data
        else (
            config.sequence_length,
            config.mean_length or max(1, config.sequence_length // 2),
            config.trained_share,
            config.examples,
        )
    )
    batch = MicroBatch(config.micro_batch_size, longest, trained_share)
    own = base_setup(flags, model)
    if ds_config is None:
        setups = compared_setups(own)
        choice = recommend(model, own, batch, memory)
    else:
        check_pair(ds_config, flags.adapter.adapter)
        setup = setup_of(own, ds_config)
        setups = {f"ZeRO {setup.stage}": setup}
        needed = rank_memory(model, setup, batch, accumulation).peak
        choice = Choice(setup, f"--ds {config.ds} says so", fits=needed <= memory)
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
        choice=choice,
        speed=Speed(1e12 * config.peak_tflops, config.efficiency, links, config.tokens_per_s),
        num_examples=num_examples,
    )


def measure_data(flags: Plan) -> tuple[int, int, float, int]:
    """Measure --data: (tokens of the longest example, of the average one, trained share, number). Raises InputError."""
    tokenizer = base.load_tokenizer(base.find_base(flags.model), trust_remote_code=flags.model.trust_remote_code)
    dataset = open_dataset(
        flags.plan.data, tokenizer=tokenizer, bad_lines="stop", cache=dataset_cache(), for_training=True
    )
    lengths = dataset.lengths
    share = float(dataset.num_loss_tokens.sum() / lengths.sum())
    return int(lengths.max()), round(float(lengths.mean())), share, len(lengths)
