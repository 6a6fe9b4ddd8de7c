"""The DeepSpeed seam: everything this package knows about DeepSpeed's engine is here or in checkpoint/adapter."""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def start_engine(model: PeftModel, ds_config: dict[str, Any]) -> Any:
    """A DeepSpeed engine that trains the trainable parameters of `model`; needs the process group."""
    import deepspeed

    deepspeed.logger.setLevel(logging.ERROR)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=trainable, config=ds_config)
    return engine


def set_learning_rate(engine: Any, learning_rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate


def take_step(engine: Any) -> None:
    """`engine.step()`: an optimizer step if this was the last micro-batch, else bookkeeping only."""
    import torch

    is_plain = not hasattr(engine.optimizer, "_global_grad_norm")
    if is_plain and engine.is_gradient_accumulation_boundary():
        # Without ZeRO, in fp32, DeepSpeed clips but forgets the norm: leave it where its getter looks.
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        engine._global_grad_norm = torch.nn.utils.get_total_norm(gradients).item()
    engine.step()


def gradient_norm(engine: Any) -> float | None:
    """2-norm of the last step's gradient before clipping; None where DeepSpeed skipped the step."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: on the accelerator, or resident on the CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
