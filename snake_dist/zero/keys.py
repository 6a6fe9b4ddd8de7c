"""The keys that a DeepSpeed config may have. DeepSpeed itself silently ignores a misspelt key at the top.

A test holds the nested tables equal to DeepSpeed's own models.
"""

from __future__ import annotations

import difflib
from typing import Any

from snake_dist.errors import InputError

_OFFLOAD = ("buffer_count", "device", "nvme_path", "pin_memory")

ZERO_KEYS = (
    "allgather_bucket_size", "allgather_partitions", "compute_grad_norm", "contiguous_gradients", "cpu_offload",
    "cpu_offload_param", "cpu_offload_use_pin_memory", "elastic_checkpoint", "enable_sanity_checks",
    "ignore_unused_parameters", "leaf_module", "legacy_stage1", "load_from_fp32_weights", "log_trace_cache_warnings",
    "memory_efficient_linear", "offload_optimizer", "offload_param", "overlap_comm", "override_module_apply",
    "parameter_alignment", "pipeline_loading_checkpoint", "reduce_bucket_size", "reduce_scatter",
    "round_robin_gradients", "save_muon_momentum_buffer_in_memory", "stage", "stage3_allgather_sequential",
    "stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save",
    "stage3_max_live_parameters", "stage3_max_reuse_distance", "stage3_model_persistence_threshold",
    "stage3_module_granularity_threshold", "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
    "stage3_use_all_reduce_for_fetch_params", "sub_group_size", "use_multi_rank_bucket_allreduce", "zenflow",
    "zero_hpz_partition_size", "zero_quantized_gradients", "zero_quantized_nontrainable_weights",
    "zero_quantized_weights",
)  # fmt: skip
OFFLOAD_PARAM_KEYS = (*_OFFLOAD, "buffer_size", "max_in_cpu")
OFFLOAD_OPTIMIZER_KEYS = (
    *_OFFLOAD, "cpuadam_cores_perc", "fast_init", "pipeline_read", "pipeline_write", "ratio", "super_offload",
)  # fmt: skip
FP16_KEYS = (
    "auto_cast", "consecutive_hysteresis", "enabled", "fp16_master_weights_and_grads", "hysteresis",
    "initial_scale_power", "loss_scale", "loss_scale_window", "min_loss_scale",
)  # fmt: skip
BF16_KEYS = (
    "bf16_master_weights_and_grads", "bf16_optimizer_states", "check_grad_overflow", "enabled", "immediate_grad_update",
)  # fmt: skip

BLOCKS: dict[str, tuple[str, ...]] = {
    "zero_optimization": ZERO_KEYS,
    "zero_optimization.offload_param": OFFLOAD_PARAM_KEYS,
    "zero_optimization.offload_optimizer": OFFLOAD_OPTIMIZER_KEYS,
    "fp16": FP16_KEYS,
    "bf16": BF16_KEYS,
    "optimizer": ("type", "params", "legacy_fusion"),
    "optimizer.params": (
        "lr", "betas", "eps", "weight_decay", "torch_adam", "adam_w_mode", "fp32_optimizer_states", "foreach",
        "bias_correction",
    ),
    "scheduler": ("type", "params"),
    "activation_checkpointing": (
        "partition_activations", "cpu_checkpointing", "contiguous_memory_optimization", "number_checkpoints",
        "synchronize_checkpoint_boundary", "profile",
    ),
    "data_types": ("grad_accum_dtype",),
}  # fmt: skip
"""Block -> the keys inside it."""

TOP_KEYS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "zero_optimization", "fp16", "bf16", "optimizer", "scheduler", "activation_checkpointing", "data_types",
    "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "steps_per_print", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "disable_python_gc", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "sparse_gradients", "flops_profiler", "comms_logger", "comms_config", "aio",
    "tensorboard", "wandb", "csv_monitor", "checkpoint", "log_level", "timers",
)  # fmt: skip

# They change what a step trains on, how it is averaged, or the model itself: the run's record would be wrong.
CONTRADICTING = (
    "amp", "autotuning", "compile", "compression_training", "curriculum_learning", "data_efficiency", "elasticity",
    "expert_parallel", "gradient_allreduce_op", "hybrid_engine", "managed_gradient_accumulation", "pipeline",
    "progressive_layer_drop", "quantize_training", "sequence_parallel_size", "sparse_attention", "tensor_parallel",
    "torch_autocast", "weight_quantization",
)  # fmt: skip
CONTRADICTING_INSIDE = {
    "zero_optimization": ("zenflow", "legacy_stage1"),
    "fp16": ("auto_cast",),
    "zero_optimization.offload_optimizer": ("super_offload",),
}


def check_keys(config: dict[str, Any], path: str) -> None:
    """Raise InputError for a key that DeepSpeed does not know, naming the nearest one, for a key that this package
    does not support, and for a block that is no object."""
    for key in config:
        if key in CONTRADICTING:
            raise InputError(f"--ds {path}: {key!r} is not supported: it would change what the run trains: remove it")
        if key not in TOP_KEYS:
            raise InputError(f"--ds {path}: unknown key {key!r}{_nearest(key, TOP_KEYS)}")
    for name, known in BLOCKS.items():
        block: Any = config
        for part in name.split("."):
            block = block.get(part, {}) if isinstance(block, dict) else {}
        if block is None and "offload" in name:
            continue  # a way to write "no offload"
        if not isinstance(block, dict):
            raise InputError(f"--ds {path}: {name!r} is {block!r}: an object is expected")
        for key, value in block.items():
            if key in CONTRADICTING_INSIDE.get(name, ()) and value:
                raise InputError(f"--ds {path}: {name}.{key} is not supported: remove it")
            if key not in known:
                raise InputError(f"--ds {path}: unknown key {name}.{key}{_nearest(key, known)}")


def _nearest(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f": DeepSpeed knows {', '.join(known)}"
