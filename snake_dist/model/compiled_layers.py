"""Decoder layers compiled one by one on CUDA devices: fewer kernels, and fewer launches for the host to wait for.

Every layer has the same code, so that one compilation serves all of them and all lengths of a row.
"""

from __future__ import annotations

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from snake_dist.accelerator import fuses


def compile_layers(model: torch.nn.Module) -> bool:
    """Compile each decoder layer of `model` in place, on a CUDA device with Triton; return whether that is so."""
    layers = decoder_layers(model)
    if not layers or not fuses(next(model.parameters())):
        return False
    # Otherwise a number like a norm's epsilon becomes a tensor on the host, and PyTorch compiles C++ for it.
    torch._dynamo.config.specialize_float = True
    for layer in layers:
        layer.compile(dynamic=True)
    return True


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers that a model repeats, as transformers marks them."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
