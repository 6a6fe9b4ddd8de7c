"""An adapter merged into its base model, for programs that only load whole models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.checkpoint.adapter_base import AdapterOptions, SavedAdapter, describe_adapter
from snake_dist.checkpoint.saved_adapter import METADATA, load_adapter
from snake_dist.errors import InputError
from snake_dist.files import new_directory
from snake_dist.model import base

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Export:
    """Merge an adapter into the base model that it was trained on, and save the result as a model."""

    adapter: Path
    """Merge the adapter in this directory: RUN/lora_adapters/model_artifacts."""
    merge: Path
    """Write the merged model into this new directory."""
    base_model: str | None = None
    """The adapter's base model, if it was moved since the training: directory or hub id."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the base model."""


def export(config: Export) -> str:
    """Write the merged model (Hugging Face's format), its tokenizer and `adapter_metadata.json`; return its dtype.

    Weights are merged in float32 and saved in the dtype that the base had in training, so bfloat16 and float16 round
    them again. QLoRA's adapter is merged into the dequantized 4-bit weights that it was trained with. Embeddings and
    output head that share a weight, of which the adapter changes one, get one each. Raises InputError if the adapter is
    damaged, its base is missing or has changed, or the directory exists or cannot be written.
    """
    from safetensors import SafetensorError

    if config.merge.exists():
        raise InputError(f"--merge {config.merge} exists: name a new directory")
    options = AdapterOptions(config.base_model, config.trust_remote_code)
    adapter = describe_adapter(config.adapter, options, "--adapter")

    try:
        # The base is loaded inside: a directory that cannot be written fails before.
        with new_directory(config.merge, durable=True) as temporary:
            _merge(adapter).save_pretrained(str(temporary))
            adapter.load_tokenizer().save_pretrained(str(temporary))
            if (config.adapter / METADATA).is_file():  # another program's has none
                shutil.copy2(config.adapter / METADATA, temporary)
    except (OSError, SafetensorError) as problem:
        raise InputError(f"--merge {config.merge}: cannot be written ({problem})") from problem
    return adapter.dtype


def _merge(adapter: SavedAdapter) -> PreTrainedModel:
    import torch

    plain = base.load_base(
        adapter.location,
        adapter.dtype,
        trust_remote_code=adapter.trust_remote_code,
        quantization=adapter.quantization,
    )
    adapted = load_adapter(plain.dequantize().float() if adapter.quantization else plain.float(), adapter.directory)
    _untie_adapted(adapted.get_base_model())
    return adapted.merge_and_unload().to(getattr(torch, adapter.dtype))


def _untie_adapted(model: PreTrainedModel) -> None:
    """Give embeddings and output head weights of their own if they share one and the adapter changes one of them."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (model.get_output_embeddings(), model.get_input_embeddings())
    if not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    head, embeddings = (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers)
    if head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
        model.all_tied_weights_keys = {}  # by which it would save one of them only
