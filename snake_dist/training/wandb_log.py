"""Weights & Biases as a sink: online where it can be reached, else offline, with nothing lost."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from snake_dist.errors import InputError
from snake_dist.training.sinks import CLOSE_TIMEOUT_S, Artifact, Sink

INIT_TIMEOUT_S = 30.0
"""How long the service may take to answer before the run logs offline."""
ARTIFACT_TIMEOUT_S = 60
"""How long the run's end waits for one artifact before it says so."""
DEFAULT_PROJECT = "snake_dist"


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases, which receives the metrics of metrics.jsonl. A flag wins over its environment variable."""

    wandb_mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: WANDB_MODE if it is set, else online where a W&B API key is set, else offline. A run that cannot reach W&B
    logs offline; `wandb sync` uploads it."""
    wandb_project: str | None = None
    """W&B project. Default: WANDB_PROJECT, else snake_dist."""
    wandb_entity: str | None = None
    """W&B user or team. Default: WANDB_ENTITY, else the account's own."""
    wandb_group: str | None = None
    """W&B group of runs to compare. Default: WANDB_RUN_GROUP."""
    wandb_name: str | None = None
    """Name of the run in W&B. Default: WANDB_NAME, else the name of the output directory."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags. Default: WANDB_TAGS, separated by commas."""
    wandb_artifacts: bool = True
    """Give W&B the adapter, the best checkpoint, the report, and the data's fingerprint as the run's input."""


_VARIABLES = {
    "wandb_project": "WANDB_PROJECT",
    "wandb_entity": "WANDB_ENTITY",
    "wandb_group": "WANDB_RUN_GROUP",
    "wandb_name": "WANDB_NAME",
    "wandb_tags": "WANDB_TAGS",
}
_MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
"""WANDB_MODE -> --wandb-mode."""


def complete_wandb_config(
    config: WandbConfig, earlier: Mapping[str, Any], environment: Mapping[str, str]
) -> WandbConfig:
    """Return `config` with what no flag says from the run's earlier session, else from the environment.

    `earlier`: the flags of that session ("wandb-project" -> value), {} for a new run: a resumed run continues its W&B
    run from whatever shell it is started. Raises InputError for a WANDB_MODE that is none.
    """
    found: dict[str, Any] = {}
    for field, variable in _VARIABLES.items():
        found[field] = (
            getattr(config, field) or earlier.get(field.replace("_", "-")) or environment.get(variable) or None
        )
    tags = found["wandb_tags"] or ()
    found["wandb_tags"] = tuple(tags.split(",") if isinstance(tags, str) else tags)
    found["wandb_project"] = found["wandb_project"] or DEFAULT_PROJECT
    mode = environment.get("WANDB_MODE")
    if config.wandb_mode == "auto" and mode:
        if mode not in _MODES:
            raise InputError(f"WANDB_MODE={mode}: allowed are {', '.join(_MODES)}; --wandb-mode wins over it")
        found["wandb_mode"] = _MODES[mode]
    return replace(config, **found)


def open_wandb(config: WandbConfig, directory: Path, run_config: dict[str, Any], run_id: str) -> Sink:
    """Return the sink of the W&B run `run_id`, which a later session of the same id continues.

    `config`: completed; `directory`: for W&B's files; `run_config`: shown with the run. Offline, with one line on
    stderr that says why, where a key is set but the service does not answer.
    """
    import wandb

    def start(mode: Literal["online", "offline"]) -> WandbSink:
        wandb.setup(wandb.Settings(mode=mode, silent=True))  # the run's own `silent` does not reach artifacts
        run = wandb.init(
            id=run_id,
            project=config.wandb_project,
            entity=config.wandb_entity,
            group=config.wandb_group,
            name=config.wandb_name or directory.name,
            tags=config.wandb_tags or None,
            dir=str(directory),
            config=run_config,
            mode=mode,
            resume="allow",
            settings=wandb.Settings(
                console="off",
                quiet=True,
                silent=True,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT") or INIT_TIMEOUT_S),
                finish_timeout=CLOSE_TIMEOUT_S - 5,
                finish_timeout_raises=True,
            ),
        )
        return WandbSink(run, is_online=mode == "online", keeps_artifacts=config.wandb_artifacts)

    if config.wandb_mode == "offline":
        return start("offline")
    why = "no API key: run `wandb login`" if config.wandb_mode == "online" else ""
    try:
        wandb.setup(wandb.Settings(mode="online", silent=True))  # else WANDB_MODE wins over the flag
        if wandb.login(prompt=False, verify=False):
            return start("online")
    except Exception as problem:  # no route, no answer, a refused key: there are many types of it
        why = " ".join(str(problem).split())[:200]
    wandb.teardown()  # its service would still take the run for one in use
    sink = start("offline")
    if why:
        print(f"W&B: {why}: logging offline; upload later with `{sink.upload_command}`", file=sys.stderr, flush=True)
    return sink


class WandbSink(Sink):
    """One W&B run. Everything is in its directory before it is uploaded."""

    def __init__(self, run: Any, *, is_online: bool, keeps_artifacts: bool) -> None:
        self._run, self._is_online, self._keeps_artifacts = run, is_online, keeps_artifacts
        directory = shlex.quote(str(Path(run.settings.sync_dir)))
        self.upload_command = f"wandb sync {'--include-online ' if is_online else ''}{directory}"

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def log_page(self, step: int, page: Path) -> None:
        import wandb

        self._run.log({"report": wandb.Html(str(page), inject=False)}, step=step)

    def log_artifact(self, artifact: Artifact) -> None:
        import wandb

        if not self._keeps_artifacts or (artifact.path is None and not self._is_online):  # inputs need the service
            return
        try:
            made = wandb.Artifact(artifact.name, type=artifact.type, metadata=artifact.metadata)
            if artifact.path is None:
                self._run.use_artifact(made, aliases=list(artifact.aliases))
            else:
                made.add_dir(str(artifact.path), policy="immutable")
                logged = self._run.log_artifact(made, aliases=["latest", *artifact.aliases])
                if self._is_online:  # else nobody hears of a failure
                    logged.wait(timeout=ARTIFACT_TIMEOUT_S)
        except Exception as problem:  # whatever W&B raises, the files are where they were
            why = " ".join(str(problem).split())[:200]
            place = "" if artifact.path is None else f": its files are in {artifact.path}"
            print(
                f"W&B: artifact {artifact.name} not uploaded ({type(problem).__name__}: {why}){place}", file=sys.stderr
            )

    def close(self) -> None:
        self._run.finish()
