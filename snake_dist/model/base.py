"""Base models: find one, choose its dtype, load it and its tokenizer."""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from snake_dist.errors import InputError
from snake_dist.model import smollm2

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelConfig:
    """The language model to fine-tune."""

    base_model: str = smollm2.NAME
    """Hub id, local directory, or smollm2-135m (embedded, needs no hub)."""
    base_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the base: auto is the one that the DeepSpeed file enables, else bfloat16 if the hardware computes in it,
    else float32."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: this needs less memory and takes about 40 % more time."""
    compile_layers: bool = False
    """On a GPU, compile the decoder layers at the start instead of taking liger-kernel's kernels; not under ZeRO-3."""


def find_base(config: ModelConfig) -> str:
    """Return the directory or hub id of the base model, after reading its configuration.

    The embedded model is converted on first use; the weights of other models are not read. Raises InputError
    if the model does not exist, does not generate text, or is quantized already.
    """
    name = config.base_model
    if name == smollm2.NAME:
        return str(smollm2.convert())
    directory = Path(name).expanduser()
    if directory.is_dir():
        name = str(directory.resolve())

    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    settings = read_config(name, trust_remote_code=config.trust_remote_code)
    if settings.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.trust_remote_code:
        raise InputError(
            f"--base-model {config.base_model!r} is of type {settings.model_type!r}, which is no causal language model"
        )
    if quantization := getattr(settings, "quantization_config", None):
        described = quantization if isinstance(quantization, dict) else quantization.to_dict()
        raise InputError(
            f"--base-model {config.base_model!r} is quantized already ({described.get('quant_method', 'unknown')}): "
            "name the unquantized model; --adapter qlora loads it in 4 bits"
        )
    return name


def read_config(name: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a directory or hub id. Raises InputError if it cannot be found or read."""
    import transformers

    transformers.logging.set_verbosity_error()
    directory = Path(name)
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file():
        raise InputError(
            f"--base-model {name!r} is an adapter: name its base model here, and the adapter with --init-adapter or "
            "--player adapter"
        )
    try:
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as problem:  # whatever the libraries make of a user's file
        if "trust_remote_code" in str(problem):
            raise InputError(
                f"--base-model {name!r} brings Python code of its own: add --trust-remote-code if you trust it"
            ) from None
        raise InputError(
            f"--base-model {name!r} cannot be found or read: name {smollm2.NAME}, a local directory "
            f"with a config.json, or a reachable hub id ({in_line(problem)})"
        ) from None


def in_line(problem: Exception) -> str:
    """Return the message of a library's exception in one line of at most 200 characters."""
    return (" ".join(str(problem).split()) or type(problem).__name__)[:200]


@dataclass(frozen=True)
class ModelShape:
    """The facts of a model that a run needs before it loads the weights."""

    hidden_size: int
    max_positions: int | None
    """Longest input in tokens; None if the model sets no limit."""
    vocab_size: int | None
    """Rows of the embedding: token ids are below it. None if the configuration does not say."""
    revision: str
    """Commit on the hub, digest of local weights' names, sizes, first and last MiB, or the embedded one's package."""


def model_shape(location: str, *, trust_remote_code: bool = False) -> ModelShape:
    """Return the shape of the model at `location` (from `find_base`)."""
    config = read_config(location, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    max_positions, vocab_size = (getattr(text, name, None) for name in ("max_position_embeddings", "vocab_size"))
    return ModelShape(text.hidden_size, max_positions, vocab_size, _revision(location, config))


def _revision(location: str, config: PretrainedConfig) -> str:
    if Path(location) == smollm2.cached_checkpoint():
        return smollm2.PACKAGE
    return _directory_digest(Path(location)) if Path(location).is_dir() else str(config._commit_hash)


def _directory_digest(directory: Path) -> str:
    """Return a sha256 over config and weight files; of a large file, over size and both ends: 100 GB take no time."""
    digest = hashlib.sha256()
    for path in sorted([*directory.glob("*.safetensors"), *directory.glob("*.bin"), directory / "config.json"]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read(1 << 20))
    return f"sha256:{digest.hexdigest()}"


def choose_dtype(requested: str, ds_config: dict[str, Any]) -> str:
    """Return the name of the base's dtype: the flag's, else the DeepSpeed file's, else one the hardware is fast in.

    Raises InputError if flag and file contradict each other.
    """
    blocks = {"bf16": "bfloat16", "fp16": "float16"}
    enabled = [dtype for block, dtype in blocks.items() if ds_config.get(block, {}).get("enabled") is True]
    if len(enabled) > 1:
        raise InputError("--ds: both bf16 and fp16 are enabled: choose one")
    if requested == "auto":
        return enabled[0] if enabled else _hardware_dtype(ds_config)
    if enabled and enabled[0] != requested:
        raise InputError(f"--base-dtype {requested} contradicts --ds, which enables {enabled[0]}")
    for block, dtype in blocks.items():
        if requested == dtype and ds_config.get(block, {}).get("enabled") is False:
            raise InputError(f"--base-dtype {requested} contradicts --ds, which disables {block}")
    return requested


def _hardware_dtype(ds_config: dict[str, Any]) -> str:
    import torch

    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast and ds_config.get("bf16", {}).get("enabled") is not False else "float32"


def load_base(
    location: str,
    dtype: str,
    *,
    trust_remote_code: bool = False,
    quantization: str | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """Return the causal language model at `location` (from `find_base`), in eval mode, on `device` (None: the CPU).

    With `quantization` "nf4" its linear layers but the output head are in 4 bits (NormalFloat, the scales
    quantized again: QLoRA, Dettmers et al., 2023); `device` quantizes while it loads. The 4-bit numbers are
    stored in elements of `dtype`, the compute dtype, since ZeRO-3 shards no others. Raises InputError if the weights
    cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    element = getattr(torch, dtype)
    torch.backends.cuda.enable_cudnn_sdp(False)  # on a GPU it takes 0.1 s for every length that it has not met
    options: dict[str, Any] = {"dtype": element, "trust_remote_code": trust_remote_code}
    if quantization is not None:
        options["device_map"] = {"": device or torch.device("cpu")}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=element,
            bnb_4bit_quant_storage=element,
        )
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(location, **options, output_loading_info=True)
    except Exception as problem:  # whatever the libraries make of a user's files
        raise InputError(f"--base-model {location}: its weights cannot be loaded ({in_line(problem)})") from problem
    if missing := sorted(loaded["missing_keys"]):
        raise InputError(
            f"--base-model {location}: its files lack {len(missing)} of the model's weights, which would be random: "
            f"the first is {missing[0]}"
        )
    if quantization is None:
        return model.to(device or "cpu")
    keep_storage_layout(model)
    return model


def keep_storage_layout(model: torch.nn.Module) -> None:
    """Forbid bitsandbytes to repack 4-bit weights in place.

    On CPUs with AVX512-BF16 it does so in the first forward pass in eval mode. ZeRO-3 then gathers the old
    layout back from its shards, which is read as the new one: noise, without any error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(location: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer at `location`. Raises InputError if it cannot be read or has no end-of-sequence token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except Exception as problem:  # whatever the libraries make of a user's files
        raise InputError(f"--base-model {location!r} has no readable tokenizer ({in_line(problem)})") from None
    if tokenizer.eos_token_id is None:
        raise InputError(f"--base-model {location!r}: its tokenizer has no end-of-sequence token")
    return tokenizer


def quieten_libraries() -> None:
    """Leave the terminal to this program's own lines: let libraries print errors only."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for library in ("bitsandbytes", "DeepSpeed"):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.raiseExceptions = False  # or each line of wandb's own log that a full disk refuses prints a traceback
    # The users of this program cannot act on warnings about the libraries' next versions.
    warnings.simplefilter("ignore", FutureWarning)


def own_device() -> torch.device:
    """The accelerator that this process has been given (`cluster.world.start_process_group`), or the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
