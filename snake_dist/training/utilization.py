"""How much of a GPU the training uses: the FLOP that its micro-batches need, the card's peak, the energy drawn."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from snake_dist.data.packing import Batch

if TYPE_CHECKING:
    import torch

PEAK_BF16_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "GH200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "A10": 125.0,
    "A40": 149.7,
    "L40S": 362.05,
    "L4": 121.0,
    "RTX A6000": 154.8,
    "RTX 6000 Ada": 364.25,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bf16 peak of NVIDIA's data sheets, by words of the device's name; the first that fits counts."""


def peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a card in FLOP/s; None if it is not in the table."""
    words = device_name.replace("-", " ").split()
    for name, tflops in PEAK_BF16_TFLOPS.items():
        if set(name.split()) <= set(words):
            return tflops * 1e12
    return None


class UsageMeter:
    """Counts the FLOP and the joules of this rank's GPU between two readings. On a CPU it counts nothing."""

    def __init__(self, model: Any, device: torch.device) -> None:
        """`model`: a causal language model with an adapter, sharded or not."""
        import torch

        self._is_on = device.type == "cuda"
        self._peak = (peak_flops(torch.cuda.get_device_name(device)) or math.nan) if self._is_on else math.nan
        self._cost = StepCost(model) if not math.isnan(self._peak) else None
        self._energy = _energy_counter(device)
        self._flops, self._joules_before = 0.0, self._energy()

    def count(self, batch: Batch) -> None:
        """Add what a forward and a backward pass over `batch` need."""
        if self._cost is not None:
            self._flops += self._cost.flops(batch)

    def metrics(self, seconds: float) -> dict[str, float]:
        """Return `train/mfu` and `train/joules` of all ranks since the last reading. Collective on GPUs.

        `seconds`: the time of the steps since then. What a rank does not know is left out on all.
        """
        import torch

        if not self._is_on:
            return {}
        now = self._energy()
        table = torch.tensor([self._flops, self._peak, now - self._joules_before], dtype=torch.float64)  # gloo
        torch.distributed.all_reduce(table)
        self._flops, self._joules_before = 0.0, now
        flops, peak, joules = table.tolist()
        found = {"train/mfu": flops / (peak * seconds), "train/joules": joules}
        return {name: value for name, value in found.items() if math.isfinite(value)}


class StepCost:
    """The FLOP of a position: 2 for a weight forward, 2 for its input's gradient, 2 more where the weight is trained.

    A weight counts where it is multiplied: in the layers at every computed position, experts for the share of them
    that is active; in the output head at every trained one. Attention has 12 FLOP for each head, its size, and pair of
    a query and a key that it sees. This is 4 N FLOP a token for a frozen base, as NVIDIA's NeMo AutoModel counts LoRA.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        head = getattr(model.get_output_embeddings(), "weight", None)
        tables = {id(head), id(model.get_input_embeddings().weight)}
        self.head_flops = 0.0 if head is None else 4.0 * _num_weights(head)
        active, experts = getattr(config, "num_experts_per_tok", None), _num_experts(config)
        share = active / experts if active and experts else 1.0
        self.layer_flops = 0.0
        for name, parameter in model.named_parameters():
            if id(parameter) not in tables and len(_shape(parameter)) > 1:
                each = (6 if parameter.requires_grad else 4) * (share if ".experts." in name else 1.0)
                self.layer_flops += each * _num_weights(parameter)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.pair_flops = 12.0 * config.num_attention_heads * head_dim
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        window = getattr(config, "sliding_window", None)
        self.windows = Counter(window if kind == "sliding_attention" else None for kind in kinds)

    def flops(self, batch: Batch) -> float:
        """Return the FLOP of a forward and a backward pass over the micro-batch."""
        positions = batch.input_ids_BT.numel() - batch.num_padding
        total = self.layer_flops * positions + self.head_flops * len(batch.labels_K)
        lengths, before = _segments(batch)
        for window, num_layers in self.windows.items():
            pairs = sum(_num_pairs(own, seen, window) for own, seen in zip(lengths, before, strict=True))
            total += num_layers * self.pair_flops * pairs
        return total


def _num_experts(config: Any) -> int:
    names = ("num_local_experts", "num_experts", "n_routed_experts")  # as transformers' configs call them
    return next((getattr(config, name) for name in names if getattr(config, name, None)), 0)


def _segments(batch: Batch) -> tuple[list[int], list[int]]:
    """Return the tokens of each segment, and how many each sees before its own."""
    if batch.segments is None:
        rows, width = batch.input_ids_BT.shape
        return [(rows * width - batch.num_padding) // rows] * rows, [0] * rows
    lengths = np.diff(batch.segments.boundaries).tolist()
    return lengths, [0, *[batch.segments.prefix] * (len(lengths) - 1)]


def _num_pairs(length: int, before: int, window: int | None) -> int:
    """Return how many keys the last `length` of `before + length` queries see, each itself and what came before."""
    if window is None or window >= before + length:
        return length * before + length * (length + 1) // 2
    return int(np.minimum(np.arange(before + 1, before + length + 1), window).sum())


def _shape(parameter: Any) -> tuple[int, ...]:
    quant_state = getattr(parameter, "quant_state", None)
    return tuple(quant_state.shape if quant_state is not None else getattr(parameter, "ds_shape", parameter.shape))


def _num_weights(parameter: Any) -> int:
    """Return the weights of a matrix, also where it is sharded or stored in 4 bits."""
    return math.prod(_shape(parameter))


def _energy_counter(device: torch.device) -> Any:
    """Return a function of the joules that this rank's GPU has drawn; NaN where NVML does not answer."""
    import torch

    if device.type != "cuda":
        return lambda: math.nan
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no permission, a card without a counter: NVML has an exception for each
        return lambda: math.nan
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
