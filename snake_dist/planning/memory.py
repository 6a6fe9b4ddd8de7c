"""The bytes of one rank at its peaks, of the start and of a step, for every ZeRO stage.

They are those that DeepSpeed 0.19.8 allocates, by its sources and by measurement (docs/plan.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from snake_dist.planning.activations import step_bytes
from snake_dist.planning.shapes import FP32, MicroBatch, ModelSizes, Setup, base_bytes, shardable_bytes


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank, by what they hold."""

    device: dict[str, float]
    """Bytes on the accelerator (or on the CPU without one) at the peak of a step; parts freed by then count 0."""
    host: dict[str, float]
    """Bytes in host memory: offloaded state, and the base while it is loaded, before DeepSpeed shards it."""
    start: float
    """Bytes on the accelerator at the peak of the start."""

    @property
    def total(self) -> float:
        """Bytes on the accelerator at the peak of a step."""
        return sum(self.device.values())

    @property
    def peak(self) -> float:
        return max(self.total, self.start)


def model_state(model: ModelSizes, setup: Setup) -> tuple[dict[str, float], dict[str, float]]:
    """Return the (device, host) bytes of base, adapter, fp32 masters and Adam's two moments."""
    c, ranks, trainable = setup.element, setup.num_ranks, model.num_trainable
    share = ranks if setup.stage >= 1 else 1
    # Without ZeRO in fp32 Adam updates the adapter itself; ZeRO keeps a flat fp32 copy even then.
    has_masters = setup.stage >= 1 or c < FP32
    base = base_bytes(model, setup)
    shared = shardable_bytes(model, setup)
    shards = base - shared * (1 - 1 / ranks) + (shared / setup.hpz_ranks if setup.hpz_ranks else 0.0)
    device = {
        "base": shards if setup.stage == 3 else base,
        "adapter": c * trainable / (ranks if setup.stage == 3 else 1),
        "masters": FP32 * trainable / share if has_masters else 0.0,
        "moments": 2 * FP32 * trainable / share,
    }
    host: dict[str, float] = {}
    if setup.offload_optimizer:
        host |= {name: device.pop(name) for name in ("masters", "moments")}
        host["gradients"] = FP32 * trainable / share
        device |= {"masters": 0.0, "moments": 0.0}
    if setup.offload_parameters:
        host |= {name: device[name] for name in ("base", "adapter")}
        device |= {"base": 0.0, "adapter": 0.0}
    return device, host


def start_bytes(model: ModelSizes, setup: Setup) -> float:
    """Return the bytes on the accelerator at the peak of the start: while the base is loaded, proven and sharded.

    Below stage 3 the whole base is there, beside the layer, embedding or 4-bit matrix that is widened to fp32 while the
    attention is proven. At stage 3 the base waits in host memory: a rank has its shards and the weight that is moved.
    """
    layer = model.largest_matrix if setup.nf4 else model.num_layer_weights // model.num_layers
    widened = FP32 * max(layer, model.vocabulary * model.hidden_size) if setup.element < FP32 else 0
    if setup.stage < 3 or setup.on_cpu:
        return base_bytes(model, setup) + widened
    device, _ = model_state(model, setup)
    shards = sum(device[part] for part in ("base", "adapter"))
    return shards + setup.element * model.largest_module


def gathered_bytes(model: ModelSizes, setup: Setup) -> float:
    """Return the bytes of the whole weights that ZeRO-3 holds at once beside the shards.

    From the second step on DeepSpeed keeps a weight that it needs again within `max_live` elements: between forward
    and backward pass, the last half of them. One rank gathers nothing.
    """
    if setup.stage != 3 or setup.num_ranks == 1:
        return 0.0
    base = shardable_bytes(model, setup)
    per_element = base / model.num_base
    kept_elements = setup.max_live // 2 + setup.prefetch_bucket + model.largest_module
    return min(base, kept_elements * per_element) + min(model.num_trainable, kept_elements) * setup.element


def bucket_bytes(model: ModelSizes, setup: Setup) -> float:
    """Return the bytes of the gradient buckets. A GPU holds them whole, however small the adapter is."""
    if setup.stage == 0:
        return 0.0
    elements = min(setup.reduce_bucket, model.num_trainable) if setup.on_cpu else setup.reduce_bucket
    return setup.element * elements * (2 if setup.overlap_comm and setup.stage < 3 and not setup.on_cpu else 1)


def rank_memory(model: ModelSizes, setup: Setup, batch: MicroBatch, accumulation: int = 1) -> RankMemory:
    """Return the peak of a step after the first: of its forward and backward pass, or of the optimizer's update."""
    c, trainable = setup.element, model.num_trainable
    share = setup.num_ranks if setup.stage >= 1 else 1
    device, host = model_state(model, setup)
    host["base while loading"] = base_bytes(model, setup)
    device["gathered weights"] = gathered_bytes(model, setup)

    gradients = c * trainable / (setup.num_ranks if setup.stage >= 2 else 1)
    kept_gradients = gradients if accumulation > 1 or setup.stage == 3 else 0.0
    bucket = bucket_bytes(model, setup)
    during: dict[str, float] = step_bytes(model, setup, batch) | {
        "gradients": kept_gradients,
        # Stages 1 and 2 allocate their buckets for each backward pass, untouched at its start; stage 3 keeps its one.
        "gradient buckets": 0.0 if setup.on_cpu and setup.stage < 3 else bucket,
    }
    # The fp32 gradient of this rank's part, and Adam's square root and quotient of it.
    update = 0.0 if setup.offload_optimizer else 3 * FP32 * trainable / share
    after: dict[str, float] = {
        "activations": 0.0,
        "logits": 0.0,
        "temporaries": update,
        "gradients": gradients,
        "gradient buckets": bucket,
    }
    device |= during if sum(during.values()) >= sum(after.values()) else after
    return RankMemory(device, host, start_bytes(model, setup))
