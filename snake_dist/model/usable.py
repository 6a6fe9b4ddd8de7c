"""Whether a base model can be used, found out from its files before its weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.errors import InputError
from snake_dist.model import base

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS = "model.safetensors"
_OLD_WEIGHTS = "pytorch_model.bin"
_LFS_POINTER = b"version https://git-lfs"


def check_usable(location: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the model at `location` (from `base.find_base`) without weights, on torch's "meta" device.

    Raises InputError if its weights are not there or torn, if its architecture is not known, or if its files have no
    output head. Weights on the hub are not looked at.
    """
    import torch
    from transformers import AutoModelForCausalLM

    stored = _stored_names(Path(location)) if Path(location).is_dir() else set()
    config = base.read_config(location, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as problem:  # whatever a model's own code makes of a user's configuration
        raise InputError(f"--base-model {location}: no model can be built from it ({base.in_line(problem)})") from None
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if stored and head is not None and head.weight is not embeddings.weight:
        name = next(name for name, module in model.named_modules() if module is head).rsplit(".", 1)[-1]
        if not any(f".{other}".endswith(f".{name}.weight") for other in stored):
            raise InputError(
                f"--base-model {location}: its files have no output head ({name}.weight): it was saved as a model that "
                "does not generate text"
            )
    return model


def _stored_names(directory: Path) -> set[str]:
    """Return the names of a directory's tensors, of safetensors files. Raises InputError for what cannot be loaded."""
    for name in (_WEIGHTS, _OLD_WEIGHTS):
        index = directory / f"{name}.index.json"
        if index.is_file():
            return {stored for shard in _shards(index) for stored in _names_in(shard)}
        if (directory / name).exists():
            return _names_in(directory / name)
    raise InputError(
        f"--base-model {directory}: has no weights: {_WEIGHTS}, {_OLD_WEIGHTS}, or shards with {_WEIGHTS}.index.json"
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise InputError(f"{index}: is no index of weights ({base.in_line(problem)})") from None
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise InputError(
            f"--base-model {index.parent}: {len(missing)} of {len(names)} files of its weights are missing, the first "
            f"is {missing[0]}"
        )
    return [index.parent / name for name in names]


def _names_in(path: Path) -> set[str]:
    """Return the names of a file's tensors; none of a file that only PyTorch can read."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise InputError(f"{path}: is a git-lfs pointer, not the weights: run git lfs pull in {path.parent}")
        if path.suffix != ".safetensors":
            return set()
        with safe_open(path, framework="np") as tensors:
            return set(tensors.keys())
    except (OSError, SafetensorError) as problem:
        raise InputError(f"{path}: cannot be read, copy it again ({base.in_line(problem)})") from None
