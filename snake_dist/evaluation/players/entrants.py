"""The players of a comparison by their names: the words of --player, the ladder of heuristics, the modes of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from snake_dist.checkpoint.adapter_base import AdapterOptions, SavedAdapter, describe_adapter
from snake_dist.data.templates import Template, check_template
from snake_dist.errors import InputError
from snake_dist.evaluation.players.endpoint import EndpointPlayer, check_endpoint
from snake_dist.evaluation.players.language_model import LanguageModelPlayer
from snake_dist.evaluation.players.loading import (
    BASE_MAX_NEW_TOKENS,
    adapter_identity,
    load_base_player,
    load_fastest,
    load_in_process,
    playable,
)
from snake_dist.evaluation.players.modes import ConstrainedPlayer, with_examples
from snake_dist.evaluation.players.protocol import HeuristicPlayer, Player
from snake_dist.evaluation.players.terminal import TerminalPlayer
from snake_dist.evaluation.players.vllm_model import uses_vllm
from snake_dist.files import ADAPTER_DIR
from snake_dist.heuristics.policies import POLICIES, check_plays_on
from snake_dist.model import base, smollm2
from snake_dist.model.usable import check_usable
from snake_dist.styles.catalog import check_style, prompt_style

LADDER = ("random-legal", "greedy", "bfs", "bfs-safe", "hamiltonian")
"""Heuristics from weak to perfect, which play beside everybody."""
DEFAULT_STYLE = "compact"
"""Of the prompts of models without an adapter."""
ENDPOINT_MAX_NEW_TOKENS = 4096
"""Reasoning models think aloud before they answer."""


@dataclass(frozen=True)
class Entrant:
    """A player of a comparison that is not loaded yet."""

    name: str
    """In the report."""
    kind: str
    """heuristic, model, endpoint or human."""
    identity: str
    """What decides how the entrant plays; see `game_log.Header`."""
    load: Callable[[], Player]
    base: str | None = None
    """Name of the entrant that this one is measured against."""
    batch_size: int | None = None
    """Games at once; None: all of them."""
    on_bank: bool = True
    """Whether the entrant answers the bank of positions too."""
    load_model: Callable[[], LanguageModelPlayer] | None = None
    """Loads a model into this process, as the modes need it; None: the entrant has no modes."""


@dataclass(frozen=True)
class PlayerOptions:
    """Settings of the players that need more than a name."""

    base_model: str | None = None
    """Of a base model by itself; of adapters, where their base was moved to."""
    style: str | None = None
    """Of all but adapters whose files say it."""
    human_pace_ms: int = 0
    endpoint: str | None = None
    model: str | None = None
    """At the endpoint."""
    template: Template | None = None
    """Of a base model by itself, and of adapters whose files do not say it."""
    trust_remote_code: bool = False

    def of_adapters(self) -> AdapterOptions:
        return AdapterOptions(self.base_model, self.trust_remote_code, self.style, self.template)


def find_entrants(words: Sequence[str], options: PlayerOptions) -> tuple[list[Entrant], tuple[int, str] | None]:
    """Return (entrants, (grid size, mode) that the adapters were trained on, or None) for the words of --player.

    `adapter` takes the directories that follow it and adds the base of each. Nothing is loaded, but the existence of
    everything is checked. Raises InputError naming the choices.
    """
    if options.style is not None:
        check_style(options.style)
    others, adapters = split_adapters(words)
    entrants: list[Entrant] = []
    bases: dict[str, str] = {}
    boards: set[tuple[int, str] | None] = set()
    for label, directory in adapters.items():
        adapter = playable(describe_adapter(directory, options.of_adapters(), "--player adapter"))
        boards |= {adapter.board} - {None}
        engine = ", vLLM" if uses_vllm(adapter) else ""
        shown = _prompts(prompt_style(str(adapter.style)), cast("Template", adapter.template))
        base_identity = f"{adapter.base_model} {adapter.dtype}, {shown}"
        if base_identity not in bases:
            bases[base_identity] = "base" if not bases else f"base of {label}"
            identity = f"{base_identity}, {adapter.max_new_tokens} tokens{engine}"
            entrants.append(_saved_model(bases[base_identity], identity, adapter, "base"))
        adapted = _saved_model(label, adapter_identity(directory) + engine, adapter, "adapter")
        entrants.append(replace(adapted, base=bases[base_identity]))
    entrants += [_entrant(word, options) for word in dict.fromkeys(others)]
    return entrants, boards.pop() if len(boards) == 1 else None


def split_adapters(words: Sequence[str]) -> tuple[list[str], dict[str, Path]]:
    """Return (the other words of --player, {label: directory} of its adapters).

    The label of a single adapter is `adapter`; several have the names of their runs, or their paths where the names
    are not unique.
    """
    if "adapter" not in words:
        return list(words), {}
    at = words.index("adapter")
    end = next((i for i in range(at + 1, len(words)) if words[i] in (*POLICIES, *OTHER_PLAYERS)), len(words))
    named = words[at + 1 : end]
    if not named or "adapter" in named:
        raise InputError("--player adapter: expected once, with one or more directories after it")
    directories = [Path(word) for word in named]
    return [*words[:at], *words[end:]], dict(zip(_labels(directories), directories, strict=True))


def _labels(directories: Sequence[Path]) -> list[str]:
    if len(directories) == 1:
        return ["adapter"]
    paths = [directory.absolute() for directory in directories]
    named = [path.parents[1].name if path.name == ADAPTER_DIR.name else path.name for path in paths]
    return named if len({*named, "base"}) > len(named) else [str(path) for path in directories]


def ladder_entrants(present: Sequence[Entrant], ladder: Sequence[str] = LADDER) -> list[Entrant]:
    """Return the heuristics of the ladder that are not present yet."""
    names = {entrant.name for entrant in present}
    return [_heuristic(name) for name in ladder if name not in names]


def mode_entrants(
    entrants: Sequence[Entrant], grid_size: int, mode: str, few_shot: int, constrained: bool
) -> list[Entrant]:
    """Return the models again in the modes of `players.modes`: bases with examples, bases and adapters constrained."""
    in_modes = []
    for entrant in entrants if few_shot else []:
        if entrant.load_model is not None and entrant.base is None:
            load = partial(_few_shot, entrant.load_model, few_shot, grid_size, mode)
            in_modes.append(_in_mode(entrant, f"{few_shot}-shot", f"{few_shot} examples", load))
    for entrant in entrants if constrained else []:
        if entrant.load_model is not None:
            in_modes.append(_in_mode(entrant, "constrained", "constrained", partial(_constrained, entrant.load_model)))
    return in_modes


def _in_mode(entrant: Entrant, suffix: str, how: str, load: Callable[[], Player]) -> Entrant:
    name, identity = f"{entrant.name} {suffix}", f"{entrant.identity}, {how}"
    return replace(entrant, name=name, identity=identity, load=load, load_model=None)


def _few_shot(load: Callable[[], LanguageModelPlayer], num_examples: int, grid_size: int, mode: str) -> Player:
    return with_examples(load(), num_examples, grid_size, mode)


def _constrained(load: Callable[[], LanguageModelPlayer]) -> Player:
    return ConstrainedPlayer(load())


def _saved_model(name: str, identity: str, adapter: SavedAdapter, which: str) -> Entrant:
    """Return `base` or `adapter` of a saved adapter."""
    return Entrant(
        name,
        "model",
        identity,
        partial(load_fastest, adapter, which),
        load_model=partial(load_in_process, adapter, which),
    )


def _entrant(word: str, options: PlayerOptions) -> Entrant:
    if word in POLICIES:
        return _heuristic(word)
    if word not in OTHER_PLAYERS:
        raise InputError(f"--player {word}: choose from adapter DIR..., {', '.join((*OTHER_PLAYERS, *POLICIES))}")
    return OTHER_PLAYERS[word](options)


def check_board(words: Sequence[str], grid_size: int, mode: str) -> None:
    """Raise InputError if a player of these words of --player knows no move on such boards."""
    for word in words:
        check_plays_on(word, grid_size, mode)


def _heuristic(name: str) -> Entrant:
    return Entrant(name, "heuristic", name, lambda: HeuristicPlayer(POLICIES[name]))


def _base(options: PlayerOptions) -> Entrant:
    name, remote = options.base_model or smollm2.NAME, options.trust_remote_code
    style, template = options.style or DEFAULT_STYLE, options.template or "plain"
    location = base.find_base(base.ModelConfig(name, trust_remote_code=remote))
    check_usable(location, trust_remote_code=remote)
    check_template(base.load_tokenizer(location, trust_remote_code=remote), template)
    identity = f"{location}, {_prompts(style, template)}, {BASE_MAX_NEW_TOKENS} tokens"
    load = partial(load_base_player, name, style, template, trust_remote_code=remote)
    return Entrant("base", "model", identity, load, load_model=load)


def _prompts(style: str, template: Template) -> str:
    return f"{style} prompts" if template == "plain" else f"{style} prompts, {template} template"


def _endpoint(options: PlayerOptions) -> Entrant:
    url, model = check_endpoint(options.endpoint, options.model)
    style = options.style or DEFAULT_STYLE
    identity = f"{url} {model}, {style} prompts, {ENDPOINT_MAX_NEW_TOKENS} tokens"
    load = partial(EndpointPlayer, url, model, style, ENDPOINT_MAX_NEW_TOKENS)
    return Entrant(model, "endpoint", identity, load)


def _human(options: PlayerOptions) -> Entrant:
    pace = options.human_pace_ms
    identity = f"terminal, {pace} ms a move" if pace else "terminal, turn-based"
    return Entrant(f"human: {identity}", "human", identity, partial(TerminalPlayer, pace), batch_size=1, on_bank=False)


OTHER_PLAYERS: dict[str, Callable[[PlayerOptions], Entrant]] = {"base": _base, "openai": _endpoint, "human": _human}
"""Words of --player that name neither a heuristic nor adapters."""
