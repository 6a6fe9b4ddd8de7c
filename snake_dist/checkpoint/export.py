"""An adapter merged into its base model, for programs that only load whole models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.checkpoint.saved_adapter import METADATA, load_adapter, read_metadata
from snake_dist.errors import InputError
from snake_dist.files import check_intact, new_directory
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


def export(config: Export) -> str:
    """Write the merged model (Hugging Face's format), its tokenizer and `adapter_metadata.json`; return its dtype.

    Weights are merged in float32 and saved in the dtype that the base had in training, so bfloat16 and float16 round
    them again. QLoRA's adapter is merged into the dequantized 4-bit weights that it was trained with. Embeddings and
    output head that share a weight, of which the adapter changes one, get one each. Raises InputError if the adapter is
    damaged, its base is missing or has changed, or the directory exists or cannot be written.
    """
    from safetensors import SafetensorError

    metadata = read_metadata(config.adapter)
    check_intact(config.adapter, f"--adapter {config.adapter}")
    if config.merge.exists():
        raise InputError(f"--merge {config.merge} exists: name a new directory")
    location = base.find_base(base.ModelConfig(metadata["base_model"]))
    trained_on, revision = metadata.get("base_model_revision"), base.model_shape(location).revision
    if trained_on not in (None, revision):
        raise InputError(
            f"--adapter {config.adapter} was trained on revision {trained_on} of {location}, now {revision}"
        )
    dtype, quantization = metadata["dtype"], metadata.get("quantization")

    try:
        # The base is loaded inside: a directory that cannot be written fails before.
        with new_directory(config.merge, durable=True) as temporary:
            merged = _merge(config.adapter, location, dtype, quantization)
            merged.save_pretrained(str(temporary))
            base.load_tokenizer(str(config.adapter)).save_pretrained(str(temporary))
            shutil.copy2(config.adapter / METADATA, temporary)
    except (OSError, SafetensorError) as problem:
        raise InputError(f"--merge {config.merge}: cannot be written ({problem})") from problem
    return str(dtype)


def _merge(adapter: Path, location: str, dtype: str, quantization: str | None) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError

    try:
        plain = base.load_base(location, dtype, quantization=quantization)
    except (OSError, SafetensorError) as problem:
        raise InputError(f"--adapter {adapter}: its base {location} cannot be read ({problem})") from problem
    adapted = load_adapter(plain.dequantize().float() if quantization else plain.float(), adapter)
    _untie_adapted(adapted.get_base_model())
    return adapted.merge_and_unload().to(getattr(torch, dtype))


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
