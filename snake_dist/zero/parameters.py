"""Whole tensors of parameters that DeepSpeed shards, at every ZeRO stage, with and without offload.

All ranks call the functions on whole tensors together, in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snake_dist.zero.state import MASTER, own_shard, set_partitioned, trainable

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def loss_scale(engine: Any) -> float:
    """Return the factor by which the engine multiplies the loss before the backward pass: 1 except in fp16."""
    if not engine.fp16_enabled():
        return 1.0
    optimizer = engine.optimizer
    scale = optimizer.loss_scale_config.cur_scale if hasattr(optimizer, "loss_scale_config") else optimizer.loss_scale
    return float(scale)


def whole_gradient(engine: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a copy of the coming step's gradient in fp32: averaged over ranks, loss scale taken out, not clipped.

    Call it after the last micro-batch's backward pass and before `engine.step()`.
    """
    from deepspeed.utils import safe_get_full_grad

    gradient = safe_get_full_grad(parameter)
    return gradient.detach().float() / loss_scale(engine)


def whole_parameter(engine: Any, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return a copy of the parameter in fp32: of the optimizer's master if it has one."""
    from deepspeed.utils import safe_get_full_fp32_param

    master = safe_get_full_fp32_param(parameter)
    if master is None:
        master = _unsharded_master(engine, parameter)
    return master.detach().float().clone()


def set_parameter(engine: Any, parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Set the optimizer's fp32 master and the model's working copy to this value; Adam's moments stay."""
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
    """ZeRO 0: return the fp32 copy that low precision trains, or in fp32 the parameter itself."""
    working_groups = getattr(engine.optimizer, "fp16_groups", [])
    for working, masters in zip(working_groups, getattr(engine.optimizer, "fp32_groups", []), strict=False):
        for mine, master in zip(working, masters, strict=True):
            if mine is parameter:
                return master
    return parameter


def _set_shard(parameter: Any, value: torch.Tensor) -> None:
    """ZeRO 3: set this rank's shard of the working copy, and the whole one if this rank holds it."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    parameter.ds_tensor.data.copy_(own_shard(parameter, value))
    if parameter.ds_status == ZeroParamStatus.AVAILABLE:
        parameter.data.copy_(value)


def gather_adapter(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors under the names of PEFT's file format, on the CPU, on every rank.

    Under ZeRO-3 each rank holds a part, and without the gather the tensors would have size 0, with no error.
    """
    from peft import get_peft_model_state_dict

    whole = {name: _gathered(parameter) for name, parameter in trainable(model)}
    # Trap: by default PEFT adds the base's own embeddings where these are adapted.
    state = get_peft_model_state_dict(model, state_dict=whole, save_embedding_layers=False)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _gathered(parameter: torch.nn.Parameter) -> torch.Tensor:
    import deepspeed

    if not hasattr(parameter, "ds_id"):
        return parameter.detach().cpu().clone()
    with deepspeed.zero.GatheredParameters(parameter):
        return parameter.detach().cpu().clone()


def frozen_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of the frozen weights that this process holds: its shard under ZeRO-3, all of them otherwise.

    The scales of 4-bit weights count.
    """
    total = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            held = getattr(parameter, "ds_tensor", parameter)
            total += held.numel() * held.element_size() + _scale_bytes(getattr(parameter, "quant_state", None))
    return total


def _scale_bytes(quant_state: Any) -> int:
    """Return the bytes of a bitsandbytes QuantState: block scales, the scales of those, both code books."""
    if quant_state is None:
        return 0
    tensors = (quant_state.absmax, quant_state.code, quant_state.offset)
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
    return own + _scale_bytes(quant_state.state2)
