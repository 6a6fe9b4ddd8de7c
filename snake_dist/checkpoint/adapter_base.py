"""A saved adapter with its base model, found and checked, before any weights are loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snake_dist.checkpoint.saved_adapter import check_adapter, is_other_revision, read_metadata
from snake_dist.errors import InputError
from snake_dist.model import base
from snake_dist.model.usable import check_usable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AdapterOptions:
    """What a user says of an adapter, because its files do not, or no longer rightly."""

    base_model: str | None = None
    """Where its base model is now; None: where it was in training."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the base model. No file remembers it."""
    style: str | None = None
    """For an adapter that does not say its style."""
    template: str | None = None
    """For an adapter that does not say its template."""


@dataclass(frozen=True)
class SavedAdapter:
    """What a program must know to load an adapter and to ask it."""

    directory: Path
    base_model: str
    """As its files, or else the user, name it; a base that moved keeps this name in reports."""
    location: str
    """Directory or hub id of the base model."""
    trust_remote_code: bool
    dtype: str
    quantization: str | None
    style: str | None
    template: str | None
    max_new_tokens: int
    board: tuple[int, str] | None
    """(grid size, mode) of its training games, if it says so."""

    @property
    def tokenizer_location(self) -> str:
        """Where its tokenizer is: the base model's, if another program saved the adapter without one."""
        has_own = (self.directory / "tokenizer_config.json").is_file()
        return str(self.directory) if has_own else self.location

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        return base.load_tokenizer(self.tokenizer_location, trust_remote_code=self.trust_remote_code)


def describe_adapter(directory: Path, options: AdapterOptions = AdapterOptions(), flag: str = "") -> SavedAdapter:
    """Return the intact adapter in this directory with the place of its base model; errors begin with `flag`.

    Raises InputError if it is no adapter or damaged, or if its base model cannot be found or has changed since.
    """
    named = f"{flag or 'adapter'} {directory}"
    metadata = read_metadata(directory)
    check_adapter(directory, named)
    location = _find_base(named, metadata, options)
    size, mode = metadata["grid_size"], metadata["mode"]
    return SavedAdapter(
        directory,
        metadata["base_model"] or location,
        location,
        options.trust_remote_code,
        metadata["dtype"] or _own_dtype(location, options.trust_remote_code),
        metadata.get("quantization"),
        metadata["style"] or options.style,
        metadata.get("template", "plain") or options.template,
        metadata["max_completion_tokens"],
        None if size is None else (size, mode),
    )


def _find_base(named: str, metadata: dict[str, Any], options: AdapterOptions) -> str:
    name = options.base_model or metadata["base_model"]
    if not name:
        raise InputError(f"{named}: its files do not say its base model: name it with --base-model")
    config = base.ModelConfig(name, trust_remote_code=options.trust_remote_code)
    try:
        location = base.find_base(config)
        check_usable(location, trust_remote_code=options.trust_remote_code)
    except InputError as problem:
        if options.base_model is not None:
            raise
        raise InputError(
            f"{named}: its base model {name} cannot be loaded; if it was moved, --base-model names its new place "
            f"({problem})"
        ) from None
    trained_on = metadata.get("base_model_revision")
    revision = base.model_shape(location, trust_remote_code=options.trust_remote_code).revision
    if is_other_revision(trained_on, revision):
        raise InputError(
            f"{named} was trained on revision {trained_on} of {metadata['base_model']}; {name} has {revision}"
        )
    if trained_on not in (None, revision):
        print(
            f"notice: {named}: whether {location} is the base model of its training cannot be told: that was "
            f"{metadata['base_model']} ({trained_on}), this is {revision}",
            file=sys.stderr,
        )
    return location


def _own_dtype(location: str, trust_remote_code: bool) -> str:
    """Return the dtype in which the base model was saved."""
    config = base.read_config(location, trust_remote_code=trust_remote_code).get_text_config()
    return str(config.dtype or "float32").removeprefix("torch.")
