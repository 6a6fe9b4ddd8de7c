"""Whole tensors of parameters that DeepSpeed has taken apart, at every ZeRO stage, with and without offload.

All ranks call these functions together, in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snake_dist.zero.state import MASTER, own_shard, set_partitioned

if TYPE_CHECKING:
    import torch


def loss_scale(engine: Any) -> float:
    """What the engine multiplies the loss by before the backward pass: 1 but for fp16."""
    if not engine.fp16_enabled():
        return 1.0
    optimizer = engine.optimizer
    scale = optimizer.loss_scale_config.cur_scale if hasattr(optimizer, "loss_scale_config") else optimizer.loss_scale
    return float(scale)


def whole_gradient(engine: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gradient of the coming step, fp32, a copy: averaged over ranks, loss scale taken out, not clipped.

    To be asked after the last micro-batch's backward pass and before `engine.step()`.
    """
    from deepspeed.utils import safe_get_full_grad

    gradient = safe_get_full_grad(parameter)
    return gradient.detach().float() / loss_scale(engine)


def whole_parameter(engine: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """The parameter's value in fp32, a copy: of the optimizer's master where there is one."""
    from deepspeed.utils import safe_get_full_fp32_param

    master = safe_get_full_fp32_param(parameter)
    if master is None:
        master = _unsharded_master(engine, parameter)
    return master.detach().float().clone()


def set_parameter(engine: Any, parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Give the optimizer's fp32 master and the model's working copy this value; Adam's moments stay."""
    import torch

    with torch.no_grad():
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            set_partitioned(parameter, MASTER, value)
        else:
            _unsharded_master(engine, parameter).copy_(value)
        if hasattr(parameter, "ds_id"):
            _set_shard(parameter, value)
        else:
            parameter.data.copy_(value)


def _unsharded_master(engine: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """ZeRO 0: the fp32 copy that low precision trains, or in fp32 the parameter itself."""
    working_groups = getattr(engine.optimizer, "fp16_groups", [])
    for working, masters in zip(working_groups, getattr(engine.optimizer, "fp32_groups", []), strict=False):
        for mine, master in zip(working, masters, strict=True):
            if mine is parameter:
                return master
    return parameter


def _set_shard(parameter: Any, value: torch.Tensor) -> None:
    """ZeRO 3: this rank's shard of the working copy, and the whole one where it is kept."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    parameter.ds_tensor.data.copy_(own_shard(parameter, value))
    if parameter.ds_status == ZeroParamStatus.AVAILABLE:
        parameter.data.copy_(value)
