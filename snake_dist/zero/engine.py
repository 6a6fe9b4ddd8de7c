"""DeepSpeed's engine: start it, run its steps, ask for norm, memory and skipped steps, and correct its errors."""

from __future__ import annotations

import logging
import math
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from snake_dist.errors import InputError
from snake_dist.zero.config import zero_stage
from snake_dist.zero.loss_scaling import mend_loss_scaling
from snake_dist.zero.parameters import loss_scale

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def check_dtype_here(dtype: str) -> None:
    """Raise InputError if this machine cannot train in `dtype`: few CPUs compute in float16, no GPU before Ampere in
    bfloat16."""
    import torch
    from deepspeed.accelerator import get_accelerator

    if dtype == "float16" and not get_accelerator().is_fp16_supported():
        raise InputError("float16 (--base-dtype, or fp16 in --ds): not on this machine: choose bfloat16 or float32")
    if dtype == "bfloat16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(False):
        name = torch.cuda.get_device_name()
        raise InputError(f"bfloat16 (--base-dtype, or bf16 in --ds): not on {name}: choose float16 or float32")


def start_engine(model: PeftModel, ds_config: dict[str, Any], *, lora_plus_ratio: float = 1.0) -> Any:
    """Return a DeepSpeed engine that trains the trainable parameters of `model`. Needs the process group.

    The B matrices learn `lora_plus_ratio` times as fast as the rest (LoRA+, Hayou et al., 2024).
    """
    import deepspeed

    deepspeed.logger.setLevel(logging.ERROR)
    if zero_stage(ds_config) == 3:
        _shard(model, ds_config)
    elif zero_stage(ds_config) == 0 and ds_config.get("fp16", {}).get("enabled"):
        # Gradients are divided by the ranks before they are summed, as at the other stages: a sum may overflow.
        ds_config = {"prescale_gradients": True, **ds_config}
    groups = parameter_groups(model, lora_plus_ratio, ds_config["optimizer"]["params"]["lr"])
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=ds_config)
    if engine.zero_optimization_stage() == 0 and (engine.bfloat16_enabled() or engine.fp16_enabled()):
        _forget_first_step(engine.optimizer)
    if engine.fp16_enabled() and engine.dynamic_loss_scale():
        mend_loss_scaling(engine)
    if engine.zero_optimization_stage() in (1, 2) and engine.device.type == "cuda":
        fuse_gradient_norm(engine.optimizer)
    return engine


def start_inference(model: PeftModel, ds_config: dict[str, Any]) -> Any:
    """Return a DeepSpeed engine that shards `model` by a ZeRO-3 configuration, and does not train it."""
    import deepspeed

    deepspeed.logger.setLevel(logging.ERROR)
    zero = {name: value for name, value in ds_config["zero_optimization"].items() if name != "offload_optimizer"}
    config = {name: value for name, value in ds_config.items() if name not in ("optimizer", "scheduler")}
    config["zero_optimization"] = zero
    _shard(model, config)
    return deepspeed.initialize(model=model, config=config)[0]


def end_engine(engine: Any) -> None:
    """Destroy `engine`: its memory is free once its holders let go, the weights of a ZeRO-3 model at once."""
    from deepspeed.runtime.zero import parameter_offload

    engine.destroy()
    # Trap: DeepSpeed's hooks and a global list keep a ZeRO-3 model alive for good. Without its weights it is small.
    parameter_offload.FWD_MODULE_STACK.clear()
    for parameter in engine.module.parameters():
        if hasattr(parameter, "ds_tensor"):
            parameter.data = parameter.data.new_empty(0)
            parameter.ds_tensor.data = parameter.ds_tensor.data.new_empty(0)


def _shard(model: PeftModel, ds_config: dict[str, Any]) -> None:
    """Give each rank its shard of `model`, one weight at a time: `deepspeed.initialize` would first put the whole model
    on every GPU, and only then shard it.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    deepspeed.zero.Init(module=model, config_dict_or_path=ds_config)
    # DeepSpeed no longer moves a sharded model: its buffers and the scales of 4-bit weights would stay behind.
    device = get_accelerator().current_device_name()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    for parameter in model.parameters():
        if (quant_state := getattr(parameter, "quant_state", None)) is not None:
            quant_state.to(device)


def parameter_groups(model: PeftModel, lora_plus_ratio: float, learning_rate: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups, none of them empty: DeepSpeed drops empty ones and then miscounts the rest."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    fast = [parameter for name, parameter in trainable if ".lora_B." in name and lora_plus_ratio != 1]
    slow = [parameter for name, parameter in trainable if ".lora_B." not in name or lora_plus_ratio == 1]
    groups = [
        {"params": slow, "lr": learning_rate, "rate_ratio": 1.0},
        {"params": fast, "lr": learning_rate * lora_plus_ratio, "rate_ratio": lora_plus_ratio},
    ]
    return [group for group in groups if group["params"]]


def _forget_first_step(optimizer: Any) -> None:
    """Undo the step on zero gradients by which DeepSpeed, without ZeRO, in low precision, allocates Adam's moments.

    With it Adam would correct its bias as in a second step (0.74 of the rate at first), and decay the weights once.
    """
    import torch

    optimizer.optimizer.state.clear()
    with torch.no_grad():
        for masters, working in zip(getattr(optimizer, "fp32_groups", []), optimizer.fp16_groups, strict=False):
            for master, parameter in zip(masters, working, strict=True):
                master.copy_(parameter)


def fuse_gradient_norm(optimizer: Any) -> None:
    """Let a ZeRO 1 or 2 optimizer check and measure all gradients in a few kernels: DeepSpeed launches 15 for each.

    The norm is summed in fp32 instead of float64: only GPUs, where launches cost more than this changes, get it.
    """
    import torch

    def norm(gradients: Iterable[torch.Tensor]) -> torch.Tensor:
        own = [gradient for gradient in gradients if not getattr(gradient, "_zero_padding", False)]
        if not own:
            return torch.zeros((), device=optimizer.device)
        return torch.stack(torch._foreach_norm(own, 2, dtype=torch.float32)).norm()

    def has_overflow() -> torch.Tensor:
        groups = [group for group in optimizer.averaged_gradients.values() if group is not None]
        return ~norm(gradient for group in groups for gradient in group).isfinite().reshape(1)

    def global_norm(gradients: Iterable[torch.Tensor], params: Any, norm_type: float = 2) -> torch.Tensor:  # noqa: ARG001
        squared = norm(gradients).square()
        torch.distributed.all_reduce(squared, group=optimizer.dp_process_group)
        total = squared.sqrt()
        return torch.where(total.isfinite(), total, -1.0)  # DeepSpeed's sign of an overflow

    optimizer.has_overflow_partitioned_grads_serial = has_overflow
    optimizer.get_grad_norm_direct = global_norm


def set_learning_rate(engine: Any, learning_rate: float) -> None:
    """Set the rate of every group of the optimizer; LoRA+'s B matrices get their multiple of it."""
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_ratio"]


def backward(engine: Any, loss: torch.Tensor) -> None:
    """Call `engine.backward(loss)`, in fp16 with the loss scaled at every stage."""
    scale = loss_scale(engine)
    if scale != 1 and engine.zero_optimization_stage() == 0:
        # Without ZeRO DeepSpeed takes the scale out of the gradients, but does not put it into the loss.
        loss = loss * scale
    engine.backward(loss)


def take_step(engine: Any) -> None:
    """Call `engine.step()`: an optimizer step after the last micro-batch, bookkeeping after the others."""
    import torch

    if engine.is_gradient_accumulation_boundary() and not hasattr(engine.optimizer, "_global_grad_norm"):
        # Without ZeRO, in fp32, DeepSpeed clips but does not store the norm: store it where its getter reads.
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = engine._global_grad_norm = torch.nn.utils.get_total_norm(gradients).item()
        if not math.isfinite(norm):
            # In this case it does not check for NaN either: skip the step as it does in the others.
            engine.zero_grad()
            engine.micro_steps += 1
            engine.global_steps += 1
            engine.skipped_steps += 1
            return
    scale = loss_scale(engine)
    is_last = engine.is_gradient_accumulation_boundary()
    was_linked = getattr(engine.optimizer, "_hp_optimizer_states_linked", None)
    engine.step()
    if was_linked is False and engine.optimizer._hp_optimizer_states_linked:
        # ZeRO 1 and 2 link parameters to their moments after the first group's step, when other groups have none.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    if is_last and scale != 1 and engine.zero_optimization_stage() == 0:
        # Without ZeRO the norm of fp16 gradients comes with the loss scale still in it.
        engine._global_grad_norm = float(engine._global_grad_norm) / scale


@contextmanager
def joined_forwards(engine: Any, model: Any) -> Iterator[Callable[[], None]]:
    """Let each rank call `model`, the language model in `engine`, a different number of times inside the block.

    Under ZeRO-3 a forward pass gathers the weights from all ranks. So each rank announces its forward passes, and every
    rank that is through calls the yielded function, which takes part in the others' passes until none is left.
    """
    import torch

    if engine.zero_optimization_stage() < 3 or torch.distributed.get_world_size() == 1:
        yield lambda: None
        return
    is_counted = True

    def is_any(mine: bool) -> bool:
        table = torch.tensor([mine], dtype=torch.int32)  # on the CPU: gloo
        torch.distributed.all_reduce(table, torch.distributed.ReduceOp.MAX)
        return bool(table.item())

    def begin(*_: Any) -> None:
        if is_counted:
            is_any(True)

    def join() -> None:
        nonlocal is_counted
        is_counted = False
        with torch.no_grad():
            while is_any(False):
                model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=engine.device), use_cache=False)
        is_counted = True

    handle = model.register_forward_pre_hook(begin)
    try:
        yield join
    finally:
        handle.remove()


def was_skipped(engine: Any) -> bool:
    """Return whether all ranks skipped the last optimizer step because a gradient was not finite."""
    if hasattr(engine.optimizer, "overflow"):
        return bool(engine.optimizer.overflow)
    norm = engine.get_global_grad_norm()
    return norm is not None and not math.isfinite(norm)


def gradient_norm(engine: Any) -> float | None:
    """Return the 2-norm of the last step's gradient before clipping; None where DeepSpeed skipped the step."""
    norm = engine.get_global_grad_norm()
    return None if norm is None or was_skipped(engine) else float(norm)


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory of this process in GiB: on the accelerator, or resident on the CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
