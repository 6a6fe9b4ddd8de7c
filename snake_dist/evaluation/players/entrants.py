"""Find players by name: heuristics, base models, adapters on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.checkpoint.saved_adapter import load_adapter, read_metadata, read_prompt_hashes
from snake_dist.errors import InputError
from snake_dist.evaluation.judging.state_bank import TrainedPrompts
from snake_dist.evaluation.players.endpoint import EndpointPlayer, check_endpoint
from snake_dist.evaluation.players.language_model import ModelPlayer
from snake_dist.evaluation.players.modes import ConstrainedPlayer, with_examples
from snake_dist.evaluation.players.protocol import HeuristicPlayer, Player
from snake_dist.evaluation.players.terminal import TerminalPlayer
from snake_dist.evaluation.players.vllm_model import load_vllm_players, uses_vllm
from snake_dist.files import sha256_of
from snake_dist.heuristics.policies import POLICIES
from snake_dist.model import base
from snake_dist.styles.prompts import check_style

if TYPE_CHECKING:
    import torch

LADDER = ("random-legal", "greedy", "bfs", "bfs-safe", "hamiltonian")
"""Heuristics from weak to perfect."""
OTHER_PLAYERS = ("base", "openai", "human")
"""Players that are neither heuristics nor adapters."""
BATCH_SIZE = 256
"""States decoded at once, at most: from here on a CPU core's matrix products gain little."""
ENDPOINT_MAX_NEW_TOKENS = 4096
"""Reasoning models think aloud before they answer."""
BASE_MAX_NEW_TOKENS = 64
"""A base model by itself may say so much; beside an adapter it may say as much as that one was taught to."""


@dataclass(frozen=True)
class Entrant:
    """A player of a comparison, not loaded yet."""

    name: str
    """In the report."""
    kind: str
    """heuristic, model, endpoint or human."""
    identity: str
    """What decides how it plays; see `game_log.Header`."""
    load: Callable[..., Player]
    base: str | None = None
    """Name of the entrant that it is measured against."""
    batch_size: int | None = None
    """Games at once; None: all of them."""


@dataclass(frozen=True)
class PlayerOptions:
    """What the players that need more than a name are to be."""

    base_model: str
    style: str
    human_pace_ms: int = 0
    endpoint: str | None = None
    model: str | None = None
    """At the endpoint."""


def find_entrants(names: Sequence[str], options: PlayerOptions) -> tuple[list[Entrant], tuple[int, str] | None]:
    """(entrants, (grid size, mode) of their training or None) for the words of --player.

    `adapter` takes the directories that follow it, and brings each base in. Nothing is loaded, but everything is
    looked for. Raises InputError naming the choices.
    """
    check_style(options.style)
    words, entrants = list(names), []
    directories = [Path(word) for word in _adapter_words(words)]
    labels = _labels(directories)
    bases: dict[str, str] = {}
    boards: set[tuple[int, str]] = set()
    for directory, label in zip(directories, labels, strict=True):
        metadata = read_metadata(directory)
        boards.add((metadata["grid_size"], metadata["mode"]))
        style, limit = metadata["style"], metadata["max_completion_tokens"]
        if style is None:
            raise InputError(
                f"--player adapter {directory}: was trained on prompts of no known style, so it cannot play"
            )
        engine = ", vLLM" if uses_vllm(directory) else ""
        base_identity = f"{metadata['base_model']} {metadata['dtype']}, {style} prompts"
        if base_identity not in bases:
            bases[base_identity] = "base" if not bases else f"base of {label}"
            load = partial(_from_adapter, directory, "base")
            identity = f"{base_identity}, {limit} tokens{engine}"
            entrants.append(Entrant(bases[base_identity], "model", identity, load))
        load = partial(_from_adapter, directory, "adapter")
        entrants.append(Entrant(label, "model", adapter_identity(directory) + engine, load, bases[base_identity]))
    for word in dict.fromkeys(words):
        entrants.append(_entrant(word, options))
    return entrants, boards.pop() if len(boards) == 1 else None


def ladder_entrants(present: Sequence[Entrant]) -> list[Entrant]:
    """The heuristics that everybody is measured by, but for those that play already."""
    names = {entrant.name for entrant in present}
    return [_heuristic(name) for name in LADDER if name not in names]


def training_runs(names: Sequence[str]) -> dict[str, Path]:
    """{label: run directory} of the adapters among the words of --player that still lie where they were trained."""
    directories = [Path(word).absolute() for word in _adapter_words(list(names))]
    runs = {label: path.parents[1] for label, path in zip(_labels(directories), directories, strict=True)}
    return {label: run for label, run in runs.items() if (run / "metrics.jsonl").is_file()}


def trained_prompts(names: Sequence[str]) -> dict[str, TrainedPrompts | None]:
    """{label: training prompts} of the adapters among the words of --player; None where nothing was kept."""
    directories = [Path(word) for word in _adapter_words(list(names))]
    found: dict[str, TrainedPrompts | None] = {}
    for label, directory in zip(_labels(directories), directories, strict=True):
        found[label] = adapter_prompts(directory)
    return found


def adapter_prompts(directory: Path) -> TrainedPrompts | None:
    """What a saved adapter was trained on; None if it did not keep that. Raises InputError if it is no adapter."""
    style, hashes = read_metadata(directory)["style"], read_prompt_hashes(directory)
    return None if hashes is None else TrainedPrompts(style, hashes)


def mode_entrants(
    entrants: Sequence[Entrant], grid_size: int, mode: str, few_shot: int, constrained: bool
) -> list[Entrant]:
    """The models once more in the modes of `players.modes`: bases with examples, bases and adapters constrained."""
    models = [entrant for entrant in entrants if entrant.kind == "model"]
    found = []
    for entrant in models if few_shot else []:
        if entrant.base is None:
            load = partial(_few_shot, entrant, few_shot, grid_size, mode)
            identity = f"{entrant.identity}, {few_shot} examples"
            found.append(replace(entrant, name=f"{entrant.name} {few_shot}-shot", identity=identity, load=load))
    for entrant in models if constrained else []:
        load = partial(_constrained, entrant)
        found.append(
            replace(entrant, name=f"{entrant.name} constrained", identity=f"{entrant.identity}, constrained", load=load)
        )
    return found


def _few_shot(entrant: Entrant, num_examples: int, grid_size: int, mode: str) -> Player:
    return with_examples(_model_player(entrant), num_examples, grid_size, mode)


def _constrained(entrant: Entrant) -> Player:
    return ConstrainedPlayer(_model_player(entrant))


def adapter_identity(directory: Path) -> str:
    """The hash of the weights in a saved adapter."""
    return f"adapter {sha256_of(directory / 'adapter_model.safetensors')[:16]}"


def _adapter_words(words: list[str]) -> list[str]:
    """Take `adapter` and the directories after it out of `words`; returns the directories."""
    if "adapter" not in words:
        return []
    at = words.index("adapter")
    end = next((i for i in range(at + 1, len(words)) if words[i] in (*POLICIES, *OTHER_PLAYERS)), len(words))
    directories = words[at + 1 : end]
    if not directories or "adapter" in directories:
        raise InputError("--player adapter: once, with one or more directories after it")
    del words[at:end]
    return directories


def _labels(directories: Sequence[Path]) -> list[str]:
    """`adapter` for a single one; else the names of their runs, or the whole paths where those are not unique."""
    if len(directories) == 1:
        return ["adapter"]
    paths = [directory.absolute() for directory in directories]
    named = [path.parents[1].name if path.name == "model_artifacts" else path.name for path in paths]
    return named if len({*named, "base"}) > len(named) else [str(path) for path in directories]


def _entrant(word: str, options: PlayerOptions) -> Entrant:
    if word in POLICIES:
        return _heuristic(word)
    if word == "base":
        location = base.find_base(base.ModelConfig(options.base_model))
        identity = f"{location}, {options.style} prompts, {BASE_MAX_NEW_TOKENS} tokens"
        return Entrant("base", "model", identity, partial(load_base_player, options.base_model, options.style))
    if word == "openai":
        url, model = check_endpoint(options.endpoint, options.model)
        identity = f"{url} {model}, {options.style} prompts, {ENDPOINT_MAX_NEW_TOKENS} tokens"
        load = partial(EndpointPlayer, url, model, options.style, ENDPOINT_MAX_NEW_TOKENS)
        return Entrant(model, "endpoint", identity, load)
    if word == "human":
        pace = options.human_pace_ms
        identity = f"terminal, {pace} ms a move" if pace else "terminal, turn-based"
        return Entrant(f"human: {identity}", "human", identity, partial(TerminalPlayer, pace), batch_size=1)
    raise InputError(f"--player {word}: choose from adapter DIR..., {', '.join((*OTHER_PLAYERS, *POLICIES))}")


def _heuristic(name: str) -> Entrant:
    return Entrant(name, "heuristic", name, lambda: HeuristicPlayer(POLICIES[name]))


def _from_adapter(directory: Path, name: str, *, with_vllm: bool = True) -> Player:
    return _loaded_pair(directory, with_vllm and uses_vllm(directory))[name]


@lru_cache(maxsize=1)
def _loaded_pair(directory: Path, with_vllm: bool) -> Mapping[str, Player]:
    """An adapter and its base, one pair in memory at a time."""
    return load_vllm_players(directory) if with_vllm else load_model_players(directory, base.own_device())


def _model_player(entrant: Entrant) -> ModelPlayer:
    """The entrant as the modes need it: with its model in this process."""
    is_adapted = isinstance(entrant.load, partial) and entrant.load.func is _from_adapter
    player = entrant.load(with_vllm=False) if is_adapted else entrant.load()
    assert isinstance(player, ModelPlayer)
    return player


def load_player(adapter_dir: str | Path) -> ModelPlayer:
    """The adapter in this directory on its base model, ready to answer positions. Raises InputError."""
    return load_model_players(Path(adapter_dir), base.own_device())["adapter"]


def load_base_player(base_model: str, style: str) -> ModelPlayer:
    """A model without any adapter. Raises InputError if it cannot be found."""
    check_style(style)
    location = base.find_base(base.ModelConfig(base_model))
    dtype = base.choose_dtype("auto", {})
    model = base.load_base(location, dtype).to(base.own_device())
    return ModelPlayer(model, base.load_tokenizer(location), style, BASE_MAX_NEW_TOKENS, BATCH_SIZE)


def load_model_players(
    adapter_dir: Path, device: torch.device, *, trust_remote_code: bool = False
) -> dict[str, ModelPlayer]:
    """{"base": ..., "adapter": ...}: one base model in memory, with the adapter off and on. The base is the one
    the adapter was trained on: for QLoRA the one in 4 bits.

    Everything comes from disk, as in a fresh process. Raises InputError if adapter or base cannot be found.
    """
    from snake_dist.model.dropout import use_shared_dropout
    from snake_dist.model.fast_path import use_fast_ops

    metadata = read_metadata(adapter_dir)
    location = base.find_base(base.ModelConfig(metadata["base_model"], trust_remote_code=trust_remote_code))
    quantization = metadata.get("quantization")
    plain = base.load_base(
        location, metadata["dtype"], trust_remote_code=trust_remote_code, quantization=quantization, device=device
    )
    model = load_adapter(plain if quantization else plain.to(device), adapter_dir)
    use_shared_dropout(model)  # the fast layers' kind; there is none in eval mode
    use_fast_ops(model)
    tokenizer = base.load_tokenizer(str(adapter_dir))
    style, limit = metadata["style"], metadata["max_completion_tokens"]
    return {
        name: ModelPlayer(model, tokenizer, style, limit, BATCH_SIZE, adapter=name == "adapter")
        for name in ("base", "adapter")
    }
