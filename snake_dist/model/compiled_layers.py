"""Decoder layers compiled one by one on CUDA devices: fewer kernels, and fewer launches for the host to wait for.

Every layer has the same code, so that one compilation serves all of them and all lengths of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from snake_dist.accelerator import has_compiler
from snake_dist.errors import InputError


def compile_layers(model: torch.nn.Module, **options: Any) -> None:
    """Compile each decoder layer of `model` in place, for all lengths of a row; `options` are torch.compile's."""
    # Otherwise a number like a norm's epsilon becomes a tensor on the host, and PyTorch compiles C++ for it.
    torch._dynamo.config.specialize_float = True
    for layer in decoder_layers(model):
        layer.compile(dynamic=True, **options)


def check_compiles() -> None:
    """Raise InputError if --compile-layers can compile nothing here."""
    if not torch.cuda.is_available() or not has_compiler():
        raise InputError("--compile-layers: a CUDA device, Triton and a C compiler (CC, gcc or clang) are needed")


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers that a model repeats, as transformers marks them."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
