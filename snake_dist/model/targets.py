"""What --target-modules names: linear layers, embeddings, and matrices of experts and routers, which are no layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from snake_dist.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
_COMMA = re.compile(r",(?![^\[\](){}]*[\])}])")
"""A comma that no bracket of a regular expression encloses."""
_OF_REGEX = re.compile(r"[\\*+?\[\](){}|^$]")


@dataclass(frozen=True)
class Targets:
    """What an adapter sits on."""

    layers: list[str]
    """Full names of linear layers and embeddings."""
    matrices: list[str]
    """Full names of parameters that PEFT adapts without a layer (its target_parameters)."""
    fused: dict[str, int]
    """Last part of a matrix's name -> how many named matrices are fused in it: it gets as many times the rank."""
    plain_names: list[str]
    """The names as the user gave them, if these alone tell PEFT the layers; else []."""

    def as_trained(self, parameters: Collection[str]) -> Targets:
        """Return these targets without the layers that runs of earlier versions left out as PEFT does: those among the
        matrices of which there are no trained `parameters`."""
        ours = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in parameters}
        matrices = [
            name for name in self.matrices if not name.endswith("_proj.weight") or name.removesuffix(".weight") in ours
        ]
        return replace(self, matrices=matrices)


def is_linear(module: Any) -> bool:
    """Return whether PEFT can adapt this layer as a matrix: nn.Linear or GPT-2's transposed Conv1D."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def find_targets(model: PreTrainedModel, given: Iterable[str], *, with_matrices: bool = True) -> Targets:
    """Return what the values of --target-modules mean in `model`; none: all-linear, which leaves out the output head.

    A value is a comma-separated list of names and regular expressions. A name means all that it is the end of; a
    regular expression, all whose name, or an end of it behind a dot, it matches as a whole. Without `with_matrices`,
    PEFT maps no names to matrices (AdaLoRA). Raises InputError, with the choices, for what means nothing.
    """
    wanted = _entries(given) or [ALL_LINEAR]
    old_names = _old_names(model) if with_matrices else {}
    places = _places(model, old_names)
    chosen: set[str] = set()
    for entry in wanted:
        meant = _all_linear(model, places, old_names) if entry == ALL_LINEAR else _matching(entry, places)
        if not meant:
            kinds = sorted({name.rsplit(".", 1)[-1] for name in places} - {"weight"})
            raise InputError(
                f"--target-modules {entry}: not in this model: choose from {ALL_LINEAR}, {', '.join(kinds)}, or give a "
                "regular expression for their names"
            )
        chosen.update(meant)
    found = {place for name, place in places.items() if name in chosen}
    layers = [name for name, place in places.items() if name == place in found and _is_layer(model, name)]
    return Targets(
        layers,
        sorted(found.difference(layers)),
        _fused(places, chosen, found.difference(layers)),
        plain_names(given) if len(layers) == len(found) else [],
    )


def plain_names(given: Iterable[str]) -> list[str]:
    """Return the names that these values of --target-modules are; [] if they say anything else."""
    wanted = _entries(given)
    return [] if any(entry == ALL_LINEAR or _OF_REGEX.search(entry) for entry in wanted) else wanted


def _entries(given: Iterable[str]) -> list[str]:
    parts = [part.strip() for value in given for part in _COMMA.split(value) if part.strip()]
    return [ALL_LINEAR if part.lower() == ALL_LINEAR else part for part in parts]


def without(model: PreTrainedModel, unwanted: Collection[str]) -> str:
    """Return values of --target-modules that mean all-linear but the `unwanted` names of layers and parameters."""
    old_names = _old_names(model)
    places = _places(model, old_names)
    kept = [name for name in _all_linear(model, places, old_names) if places[name] not in unwanted]
    left_out = {name.rsplit(".", 1)[-1] for name in places if places[name] in unwanted}
    # As much of a name as tells it from what is left out.
    ends = {name: name.rsplit(".", 1)[-1] for name in kept}
    return " ".join(sorted({".".join(name.split(".")[-2:]) if end in left_out else end for name, end in ends.items()}))


def _old_names(model: PreTrainedModel) -> dict[str, str]:
    """Return name of a layer, before experts were fused -> name of their parameter, where PEFT maps these names.

    Trap: PEFT then takes every layer of such a name for one of the experts', those of a shared expert and of an MLP
    without experts too. They are adapted as parameters, by a name that it does not map.
    """
    from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING

    pattern = _MODEL_TO_CONVERSION_PATTERN.get(getattr(model.config, "model_type", None))
    return _MOE_TARGET_MODULE_MAPPING.get(pattern, {})


def _is_layer(model: PreTrainedModel, name: str) -> bool:
    import torch

    try:
        module = model.get_submodule(name)
    except AttributeError:
        return False
    return is_linear(module) or isinstance(module, torch.nn.Embedding)


def _places(model: PreTrainedModel, old_names: dict[str, str]) -> dict[str, str]:
    """Return name by which a user may mean a weight -> full name of the layer or parameter that PEFT adapts for it."""
    places = {}
    for name, module in model.named_modules():
        if _is_layer(model, name):
            places[name] = f"{name}.weight" if name.rsplit(".", 1)[-1] in old_names else name
        elif name and not type(module).__module__.startswith("torch.nn"):
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3 or (parameter.dim() == 2 and own == "weight"):
                    place = places[f"{name}.{own}"] = f"{name}.{own}"
                    places |= {f"{name}.{old}": place for old, new in old_names.items() if new == own}
                    places |= {name: place} if own == "weight" else {}
    return places


def _all_linear(model: PreTrainedModel, places: dict[str, str], old_names: dict[str, str]) -> list[str]:
    """Return all linear layers but the head, and what was one before experts were fused."""
    head = model.get_output_embeddings()
    return [
        name
        for name in places
        if (
            is_linear(layer := model.get_submodule(name)) and layer is not head
            if _is_layer(model, name)
            else (old := name.rsplit(".", 1)[-1]) in old_names and places[name].endswith(f".{old_names[old]}")
        )
    ]


def _matching(entry: str, places: dict[str, str]) -> list[str]:
    try:
        pattern = re.compile(rf"(?:.*\.)?(?:{entry if _OF_REGEX.search(entry) else re.escape(entry)})")
    except re.error as problem:
        raise InputError(f"--target-modules {entry}: no regular expression ({problem})") from None
    return [name for name in places if pattern.fullmatch(name)]


def _fused(places: dict[str, str], chosen: set[str], matrices: Collection[str]) -> dict[str, int]:
    """Return `Targets.fused`. Raises InputError for a matrix of which only a part is chosen."""
    fused = {}
    for place in matrices:
        owner, _, leaf = place.rpartition(".")
        parts = [name for name in places if places[name] == place != name and name.rpartition(".")[0] == owner]
        missing = [name.rsplit(".", 1)[-1] for name in parts if name not in chosen]
        if 0 < len(missing) < len(parts) and place not in chosen:
            named = [name.rsplit(".", 1)[-1] for name in parts if name in chosen]
            raise InputError(
                f"--target-modules {' '.join(named)}: this model keeps it in one matrix with {' '.join(missing)}: name "
                f"both, or {leaf}"
            )
        if len(parts) > 1 and not missing:
            fused[leaf] = len(parts)
    return fused
