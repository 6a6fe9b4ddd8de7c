"""The setups that a plan compares, from its flags or from a DeepSpeed JSON, and the DeepSpeed JSON of a setup."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snake_dist.model import adapters
from snake_dist.planning.config import Plan
from snake_dist.planning.shapes import ModelSizes, Setup
from snake_dist.zero.config import REDUCE_BUCKET, build_ds_config, zero_stage


def base_setup(flags: Plan, model: ModelSizes) -> Setup:
    """Return the flags' setup at stage 0, which the other setups differ from."""
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
    """Return the elements of the gradient bucket: as many as there are gradients, up to that of our DeepSpeed files."""
    return min(REDUCE_BUCKET, model.num_trainable)


def compared_setups(own: Setup) -> dict[str, Setup]:
    """Return a setup for each ZeRO stage, and one that offloads, by their names in the plan."""
    setups = {f"ZeRO {stage}": replace(own, stage=stage) for stage in range(4)}
    offloaded = replace(own, stage=3, offload_optimizer=True, offload_parameters=True, hpz_ranks=0)
    return setups | {"3+offload": offloaded}


def setup_of(own: Setup, ds_config: dict[str, Any]) -> Setup:
    """Return `own` as the DeepSpeed JSON changes it."""
    zero = ds_config.get("zero_optimization", {})

    def value(key: str, default: int) -> int:
        return default if zero.get(key, "auto") == "auto" else int(zero[key])

    def on_host(key: str) -> bool:
        return (zero.get(key) or {}).get("device", "none") != "none"

    return replace(
        own,
        stage=zero_stage(ds_config),
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


def ds_config_of(setup: Setup) -> dict[str, Any]:
    """Return the DeepSpeed JSON of a setup, without batch sizes, which the run's flags decide."""
    offload = "all" if setup.offload_parameters else "optimizer" if setup.offload_optimizer else "none"
    ds_config = build_ds_config(setup.stage, offload=offload, nodes=2 if setup.hpz_ranks else 1)
    if setup.stage:
        ds_config["zero_optimization"]["reduce_bucket_size"] = setup.reduce_bucket
    return ds_config
