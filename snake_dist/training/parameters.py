"""Whole tensors of parameters that DeepSpeed has taken apart, at every ZeRO stage, with and without offload.

All ranks call these functions together, in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from deepspeed.utils import safe_set_full_fp32_param

    with torch.no_grad():
        if hasattr(parameter, "ds_id"):
            _set_sharded(engine, parameter, value)
            return
        if hasattr(parameter, "_hp_mapping"):
            safe_set_full_fp32_param(parameter, value)
        else:
            _unsharded_master(engine, parameter).copy_(value)
        parameter.data.copy_(value)


def _unsharded_master(engine: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """ZeRO 0: the fp32 copy that low precision trains, or in fp32 the parameter itself."""
    working_groups = getattr(engine.optimizer, "fp16_groups", [])
    for working, masters in zip(working_groups, getattr(engine.optimizer, "fp32_groups", []), strict=False):
        for mine, master in zip(working, masters, strict=True):
            if mine is parameter:
                return master
    return parameter


def _set_sharded(engine: Any, parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """ZeRO 3: this rank's shards of master and working copy, and the whole working copy where it is kept.

    DeepSpeed's own setter fails for sizes that the number of ranks does not divide.
    """
    import torch
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
    from deepspeed.utils import safe_set_local_fp32_param

    shard = parameter.ds_tensor
    rank = engine.optimizer._get_param_partition_rank(parameter)
    padded = torch.nn.functional.pad(value.flatten(), (0, shard.numel() * (rank + 1)))
    mine = padded[shard.numel() * rank : shard.numel() * (rank + 1)]
    safe_set_local_fp32_param(parameter, mine)
    shard.data.copy_(mine)
    if parameter.ds_status == ZeroParamStatus.AVAILABLE:
        parameter.data.copy_(value)
