"""Saved adapters in PEFT's format: save one, prove it by reading it back, load it, start a run from it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.foreign_adapter import CONFIG, foreign_metadata
from snake_dist.checkpoint.plain_lora import PlainAdapter, Shapes
from snake_dist.errors import InputError
from snake_dist.files import MANIFEST, check_intact, new_directory, sha256_of
from snake_dist.model.adapters import AdapterConfig, adapter_size
from snake_dist.model.targets import plain_names

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "adapter_model.safetensors"
METADATA = "adapter_metadata.json"
MODEL_CARD = "README.md"
"""For people: they may edit it."""
TRAINED_PROMPTS = "trained_prompts.safetensors"
MAX_PROMPT_HASHES = 1 << 22
"""32 MiB."""


def save_adapter(
    directory: Path,
    plain: PlainAdapter,
    tokenizer: PreTrainedTokenizerBase,
    metadata: dict[str, Any],
    model_card: str,
    prompt_hashes: np.ndarray | None = None,
) -> None:
    """Write `directory` with the files that PEFT and vLLM expect, and `adapter_metadata.json`. Rank 0 calls it.

    The directory also gets the `prompt_hashes` (uint64) of the training prompts, unless they are more than
    `MAX_PROMPT_HASHES`: the judge leaves out prompts that the adapter was trained on. Raises OSError if it cannot be
    written.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    distinct = None if prompt_hashes is None else np.unique(prompt_hashes)

    with new_directory(directory, durable=True) as temporary:
        if distinct is not None and len(distinct) <= MAX_PROMPT_HASHES:
            save_arrays({"prompt_hashes": distinct}, temporary / TRAINED_PROMPTS)
        try:
            save_file(plain.tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as problem:  # how it reports a full disk
            raise OSError(f"{temporary / WEIGHTS}: cannot be written ({problem})") from problem
        plain.config.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        (temporary / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        (temporary / MODEL_CARD).write_text(model_card, encoding="utf-8")


def prove_adapter(directory: Path, expected: Shapes, zeros: Collection[str]) -> None:
    """Read a saved adapter back. Raises InputError unless every file is intact, the tensors have the expected names and
    shapes, and training changed them: one of `zeros`, which start at 0, is no longer 0; {}: nothing was to change."""
    from safetensors.torch import load_file

    check_intact(directory, str(directory))
    tensors = load_file(directory / WEIGHTS)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise InputError(
            f"{directory / WEIGHTS}: {len(wrong)} of {len(expected)} tensors are missing or of a wrong shape, "
            f"the first is {wrong[0]}: {shapes.get(wrong[0])} instead of {expected.get(wrong[0])}"
        )
    if zeros and not any(tensors[name].any() for name in zeros):
        raise InputError(
            f"{directory / WEIGHTS}: the adapter was not trained: all that starts at zero is zero, {min(zeros)} first"
        )


def check_adapter(directory: Path, named: str) -> None:
    """Raise InputError, beginning with `named`, if a file of a saved adapter is damaged or missing.

    The model card may be edited. An adapter that another program saved lists no files: its weights must be readable.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not is_foreign(directory):
            check_intact(directory, named, but=(MODEL_CARD,))
    except InputError as problem:
        advice = "; if you corrected the path of its base model there: undo that, and name it with --base-model"
        raise InputError(f"{problem}{advice if '.json' in str(problem) else ''}") from None
    try:
        with safe_open(directory / WEIGHTS, framework="np"):
            pass
    except (OSError, SafetensorError) as problem:
        raise InputError(f"{named}: {WEIGHTS} cannot be read ({problem})") from None


def is_foreign(directory: Path) -> bool:
    """Return whether another program saved the adapter: it has PEFT's configuration, and none of our files."""
    return (directory / CONFIG).is_file() and not any((directory / own).exists() for own in (METADATA, MANIFEST))


def read_metadata(directory: Path) -> dict[str, Any]:
    """Return `adapter_metadata.json` of a saved adapter, or `foreign_metadata`.

    Raises InputError if the directory holds no adapter.
    """
    try:
        if is_foreign(directory):
            metadata = foreign_metadata(directory)
        else:
            metadata = json.loads((directory / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f"adapter {str(directory)!r}: no readable {METADATA} ({problem})") from None
    if not isinstance(metadata, dict) or not (directory / WEIGHTS).is_file():
        raise InputError(f"adapter {str(directory)!r}: {METADATA} is no JSON object, or {WEIGHTS} is missing")
    return metadata


def is_other_revision(trained_on: str | None, revision: str) -> bool:
    """Return whether a base model differs from the one of the training.

    False where that cannot be told: nothing was recorded, or one alone is a digest of files.
    """
    if trained_on is None or trained_on.startswith("sha256:") != revision.startswith("sha256:"):
        return False
    return trained_on != revision


def read_prompt_hashes(directory: Path) -> np.ndarray | None:
    """Return the hashes of the training prompts (uint64, sorted); None if the adapter was saved without them.

    Raises InputError if the file holds anything else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = directory / TRAINED_PROMPTS
    if not path.is_file():
        return None
    try:
        hashes = load_file(path)["prompt_hashes"]
    except (OSError, SafetensorError, KeyError) as problem:
        raise InputError(f"{path}: cannot be read ({problem})") from None
    if hashes.dtype != "uint64" or hashes.ndim != 1 or bool((hashes[1:] <= hashes[:-1]).any()):
        raise InputError(f"{path}: prompt_hashes is not a sorted list of 64-bit numbers")
    return hashes


def check_init_adapter(directory: Path, config: AdapterConfig, base_revision: str) -> str:
    """Return the sha256 of the weights of an adapter that a run of `config` can start from (--init-adapter).

    Raises InputError if the adapter is damaged, or, with both values, of another kind, size or base.
    """
    check_adapter(directory, f"--init-adapter {directory}")
    metadata, size = read_metadata(directory), adapter_size(config)
    saved = metadata["peft_config"]
    kind = metadata["adapter"]
    if is_foreign(directory) and (kind, config.adapter) == ("lora", "qlora"):
        kind = "qlora"  # PEFT's files do not tell these two apart
    pairs: dict[str, tuple[Any, Any]] = {
        "--adapter": (kind, config.adapter),
        "--rank": (saved.get("r"), size.rank),
        "--alpha": (saved.get("lora_alpha"), size.alpha),
    }
    if is_other_revision(trained_on := metadata.get("base_model_revision"), base_revision):
        pairs["--base-model"] = (trained_on, base_revision)
    wanted, theirs = plain_names(config.target_modules), saved.get("target_modules")
    if wanted and isinstance(theirs, list) and not saved.get("target_parameters"):
        pairs["--target-modules"] = (" ".join(sorted(theirs)), " ".join(sorted(wanted)))
    different = [f"{flag} {value}, not {ours}" for flag, (value, ours) in pairs.items() if value != ours]
    if different:
        raise InputError(f"--init-adapter {directory}: has {'; '.join(different)}")
    return sha256_of(directory / WEIGHTS)


def init_adapter(model: PeftModel, directory: Path) -> None:
    """Set a new adapter's weights to those of a saved one. Raises InputError if that one adapts other modules."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    saved, own = load_file(directory / WEIGHTS), get_peft_model_state_dict(model, save_embedding_layers=False)
    other = sorted(name for name in saved.keys() ^ own.keys())
    other += [name for name in saved.keys() & own.keys() if saved[name].shape != own[name].shape]
    if other:
        raise InputError(
            f"--init-adapter {directory}: adapts other modules than --target-modules: {len(other)} tensors "
            f"differ, the first is {other[0]}"
        )
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    alphas, own_alphas = config.get("alpha_pattern") or {}, model.peft_config["default"].alpha_pattern or {}
    if alphas != own_alphas:
        raise InputError(f"--init-adapter {directory}: has the alpha_pattern {alphas}, this run has {own_alphas}")
    set_peft_model_state_dict(model, saved)


def load_adapter(base: PreTrainedModel, directory: Path) -> PeftModel:
    """Return `base` wrapped with the adapter on disk, by plain PEFT, in eval mode."""
    from peft import PeftModel

    return PeftModel.from_pretrained(
        base, str(directory), autocast_adapter_dtype=False, torch_device=str(base.device)
    ).eval()
