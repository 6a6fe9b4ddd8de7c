"""What keeps a CUDA device busy: copies that nobody waits for, and elementwise work in one kernel."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def moved_at_once(tensors: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The same host tensors on `device`. To a CUDA device by one copy from pinned memory, which does not wait."""
    import torch

    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    words = [-(-tensor.nbytes // 8) for tensor in tensors.values()]
    pinned = torch.empty(sum(words), dtype=torch.int64, pin_memory=True)
    for part, tensor in zip(pinned.split(words), tensors.values(), strict=True):
        part.view(tensor.dtype)[: tensor.numel()] = tensor.flatten()
    parts = pinned.to(device, non_blocking=True).split(words)
    return {
        name: part.view(tensor.dtype)[: tensor.numel()].view(tensor.shape)
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def runs_on_cpu(tensor: torch.Tensor) -> bool:
    """Return whether this package's own operations for CPUs compute on this tensor; else PyTorch's for it do."""
    return tensor.device.type == "cpu"


def release_memory() -> None:
    """Free what nothing holds any more, cycles too, and give a CUDA device's cached memory back."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, of tensors [..., tokens, features], compiled for all numbers of tokens on CUDA devices.

    On other devices, without Triton or a C compiler, where compiling fails, and under TORCH_COMPILE_DISABLE=1 it runs
    as it is written.
    """
    compiled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        nonlocal compiled
        import torch

        # Inside a compiled layer it is compiled with the layer.
        if compiled is function or torch.compiler.is_compiling() or not fuses(args[0]):
            return function(*args, **options)
        if compiled is None:
            compiled = torch.compile(function, dynamic=False)
        for tensor in args:
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                torch._dynamo.maybe_mark_dynamic(tensor, tensor.dim() - 2)
        try:
            return compiled(*args, **options)
        except torch._dynamo.exc.TorchDynamoException as problem:
            reason = " ".join(str(problem).split())
            warnings.warn(f"{function.__name__} runs unfused, since compiling failed: {reason[:300]}", stacklevel=2)
            compiled = function
            return function(*args, **options)

    return call


def uncompiled(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Inside, the compiled layers of `model` run as written: without gradients they would be compiled once more."""
    import torch

    is_compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()


def fuses(tensor: torch.Tensor) -> bool:
    """Whether `fused` compiles what is computed on this tensor."""
    return tensor.is_cuda and has_compiler()


def use_deterministic_kernels() -> None:
    """Let PyTorch compute with deterministic kernels only. To be called before the process uses its GPU."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs a pass for each tensor


@cache
def has_compiler() -> bool:
    """Whether Triton and a C compiler are here, and compiling is not switched off."""
    from torch.utils._triton import has_triton

    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    is_off = os.environ.get("TORCH_COMPILE_DISABLE", "0") == "1"
    return not is_off and bool(has_triton()) and any(map(shutil.which, compilers))
