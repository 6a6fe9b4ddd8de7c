"""fp16: what DeepSpeed's dynamic loss scale does at every ZeRO stage alike."""

from __future__ import annotations

from typing import Any


def mend_loss_scaling(engine: Any) -> None:
    """Let every stage skip the same steps, and take the scale out of the gradients that was put into them.

    Without ZeRO, DeepSpeed ignores `hysteresis` and halves the scale one overflow earlier. At every stage it doubles
    a scale that has lasted before it divides by it: the step's gradients were halved, under ZeRO-3 their norm too.
    """
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    optimizer = engine.optimizer
    if engine.zero_optimization_stage() == 0:
        scaler = DynamicLossScaler(dtype=torch.float16, **engine.dynamic_loss_scale_args())
        scaler.use_grad_scaling = scaler.dynamic_loss_scale = True  # read by the optimizer
        optimizer.loss_scale_config, optimizer._update_scale = scaler, scaler.update_scale
    update, step = optimizer._update_scale, optimizer.step

    def update_after_overflow(has_overflow: Any = False) -> None:
        if has_overflow:
            update(True)

    def step_and_update(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        if not optimizer.overflow:
            update(False)
        return result

    optimizer._update_scale, optimizer.step = update_after_overflow, step_and_update
