"""The runs of an ablation: their checks before the first starts, their commands, their results."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from snake_dist.ablation.grid import Ablation, Cell
from snake_dist.ablation.page import render_page
from snake_dist.ablation.verdicts import FinishedRun, analyse, render_markdown
from snake_dist.checkpoint.run_dir import read_status
from snake_dist.cluster.job import Job, ranks_per_node, world_size
from snake_dist.cluster.local import commands_for
from snake_dist.cluster.world import World
from snake_dist.errors import InputError, named
from snake_dist.evaluation.judging.game_log import read_log
from snake_dist.files import CONFIG, GAMES_DIR, REPORT, REPORT_DIR, write_json_atomically, write_text_atomically
from snake_dist.run.config import RunConfig, check_run_config, parse_run_config
from snake_dist.run.preparation import check_config
from snake_dist.run.summary import read_summary

HOW_NOT_WHAT = {
    "output-dir", "resume", "save-every", "keep-checkpoints", "rank-timeout-s", "log-every", "ds", "micro-batch-size",
    "gradient-checkpointing", "wandb-mode", "wandb-project", "wandb-entity", "wandb-group", "wandb-name", "wandb-tags",
    "wandb-artifacts", "report-to",
}  # fmt: skip
"""Flags in which an existing run may differ from the grid: they change neither what it learned nor its games."""
GRID_COPY = "grid.yaml"


def check_cells(ablation: Ablation, *, is_here: bool) -> None:
    """Raise InputError, naming the run, for flags that train.py rejects, for equal runs, and for an existing run of
    other flags. `is_here`: the files are on this machine, which runs the ranks of one node."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it would log the name of the accelerator
    size = ranks_per_node(ablation.job) if is_here else world_size(ablation.job)
    configs: dict[str, RunConfig] = {}
    for cell in ablation.cells:
        with named(f"{ablation.source}: {cell.name}"):
            config = parse_run_config(cell.flags)
            if is_here:
                check_config(config, World(rank=0, local_rank=0, size=size, local_size=size))
            else:
                check_run_config(config, size)
        if config.play.play_games == 0:
            raise InputError(
                f"{ablation.source}: {cell.name}: play-games 0: an ablation compares the games of its runs"
            )
        if twin := next((name for name, other in configs.items() if other == config), None):
            raise InputError(f"{ablation.source}: grid: {twin} and {cell.name} are the same run")
        configs[cell.name] = config
        _check_earlier_run(cell, config)


def _check_earlier_run(cell: Cell, config: RunConfig) -> None:
    """Raise InputError for an existing run of other flags: train.py does not check finished runs."""
    if not (cell.directory / CONFIG).is_file():
        return
    earlier = parse_run_config(["--config", str(cell.directory / CONFIG)]).flat()
    different = [
        f"{name} {earlier[name]}, now {value}"
        for name, value in config.flat().items()
        if earlier[name] != value and name not in HOW_NOT_WHAT
    ]
    if different:
        raise InputError(
            f"{cell.directory}: has a run with {'; '.join(different)}: choose another --output or remove it"
        )


def commands(ablation: Ablation) -> list[list[str]]:
    """List the command of each cell, for this machine."""
    return commands_for(ablation.job, ablation.flags, ablation.launcher, None)


def pending(ablation: Ablation) -> Iterator[list[str]]:
    """Yield the commands of the unfinished cells, and print the name of each cell at its turn."""
    for number, (cell, command) in enumerate(zip(ablation.cells, commands(ablation), strict=True), start=1):
        is_finished = state_of(cell)[0] == "finished"
        print(f"[{number}/{len(ablation.cells)}] {cell.name}{': finished before' if is_finished else ''}", flush=True)
        if not is_finished:
            yield command


def copy_grid(ablation: Ablation) -> Path:
    """Copy the YAML beside the runs, and return the path of the copy."""
    copy = ablation.output / GRID_COPY
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(copy, ablation.source.read_text(encoding="utf-8"))
    return copy


def table_job(ablation: Ablation) -> tuple[Job, list[str]]:
    """Return the job, and its program's flags, that writes the result once all runs have ended, failed ones too."""
    job = replace(
        ablation.job,
        job_name=f"{ablation.name}_table",
        nodes=1,
        gpus_per_node=0,
        ranks_per_node=None,
        memory=None,
        exclusive=False,
        time="00:15:00",
        signal_before_s=60,
        variants=(),
        seeds=(),
        after=(ablation.job.job_name,),
        after_kind="afterany",
        program="launcher/ablate.py",
    )
    return job, [str(ablation.output / GRID_COPY), "--output", str(ablation.output), "--table"]


def state_of(cell: Cell) -> tuple[str, str]:
    """Return the state of a cell's run, and a description of it."""
    status = read_status(cell.directory)
    if status is None:
        return "not started", "not started"
    description = f"{status.state} at step {status.step} of {status.num_steps}"
    return status.state, f"{description}: {status.reason}" if status.reason else description


def write_results(ablation: Ablation) -> str:
    """Write ablation.json, .md and .html of the finished runs, and return the Markdown. Raises InputError."""
    states = {cell.name: state_of(cell) for cell in ablation.cells}
    finished = [cell for cell in ablation.cells if states[cell.name][0] == "finished"]
    if not finished:
        raise InputError(f"{ablation.output}: none of the {len(ablation.cells)} runs is finished")
    analysis: dict[str, Any] = {
        "name": ablation.name,
        **analyse([_result(cell) for cell in finished], ablation.axes, ablation.compare),
        "runs": {cell.name: {"seed": cell.seed, "setting": cell.setting} for cell in finished},
        "unfinished": {name: description for name, (state, description) in states.items() if state != "finished"},
    }
    write_json_atomically(ablation.output / "ablation.json", analysis)
    text = render_markdown(analysis)
    write_text_atomically(ablation.output / "ablation.md", text)
    write_text_atomically(ablation.output / "ablation.html", render_page(analysis))
    return text


def _result(cell: Cell) -> FinishedRun:
    """Read a finished run's results. Raises InputError if a file is missing or incomplete."""
    try:
        summary = read_summary(cell.directory)
        report = json.loads((cell.directory / REPORT_DIR / REPORT).read_text(encoding="utf-8"))
        games = read_log(cell.directory / REPORT_DIR / GAMES_DIR / "adapter.jsonl", check=False)
        training = summary["training"]
        legal_moves = summary["play"]["players"]["adapter"]["legal_move_rate"]
        assert legal_moves["value"] is not None, "every game has a reply"
        return FinishedRun(
            name=cell.name,
            setting=cell.setting,
            choice=cell.choice,
            seed=cell.seed,
            games=report["settings"],
            apples=dict(sorted((game.seed, game.score) for _, game in games)),
            legal_move_rate=legal_moves["value"],
            held_out_loss=training.get("eval/loss"),
            num_tokens=training["num_tokens"],
            seconds=training["seconds"],
        )
    except OSError as problem:
        raise InputError(f"{problem.filename}: {problem.strerror}: the run is finished but has no results") from None
    except (ValueError, KeyError) as problem:
        raise InputError(f"{cell.directory}: incomplete results of a finished run ({problem!r})") from None
