"""Run an ablation: check every cell before the first starts, go on where it was, gather what came of it."""

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
from snake_dist.errors import InputError
from snake_dist.evaluation.judging.game_log import read_log
from snake_dist.files import CONFIG, GAMES_DIR, REPORT, REPORT_DIR, write_json_atomically, write_text_atomically
from snake_dist.run.config import RunConfig, check_run_config, parse_run_config
from snake_dist.run.preparation import check_config
from snake_dist.run.summary import read_summary

HOW_NOT_WHAT = {
    "output-dir", "resume", "save-every", "keep-checkpoints", "rank-timeout-s", "log-every", "ds", "micro-batch-size",
    "gradient-checkpointing", "wandb-mode", "wandb-project", "wandb-group",
}  # fmt: skip
"""Flags in which a run that is there may differ from the grid: they decide neither what is learned nor the games."""
GRID_COPY = "grid.yaml"


def check_cells(ablation: Ablation, *, is_here: bool) -> None:
    """Raise InputError, naming the run, for flags that train.py would refuse, for equal runs, and for a run in its
    place that was made otherwise. `is_here`: files are looked for on this machine, and one node's ranks run."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it would name the accelerator it finds
    size = ranks_per_node(ablation.job) if is_here else world_size(ablation.job)
    configs: dict[str, RunConfig] = {}
    for cell in ablation.cells:
        try:
            config = parse_run_config(cell.flags)
            if is_here:
                check_config(config, World(rank=0, local_rank=0, size=size, local_size=size))
            else:
                check_run_config(config, size)
        except InputError as problem:
            raise InputError(f"{ablation.source}: {cell.name}: {problem}") from None
        if config.play.play_games == 0:
            raise InputError(f"{ablation.source}: {cell.name}: play-games 0: runs are compared by their games")
        if twin := next((name for name, other in configs.items() if other == config), None):
            raise InputError(f"{ablation.source}: grid: {twin} and {cell.name} are the same run")
        configs[cell.name] = config
        _check_earlier_run(cell, config)


def _check_earlier_run(cell: Cell, config: RunConfig) -> None:
    """train.py itself refuses to go on with another run, but does not look at one that is finished."""
    if not (cell.directory / CONFIG).is_file():
        return
    there = parse_run_config(["--config", str(cell.directory / CONFIG)]).flat()
    wanted = config.flat()
    different = [
        f"{name} {there[name]}, now {value}"
        for name, value in wanted.items()
        if there[name] != value and name not in HOW_NOT_WHAT
    ]
    if different:
        raise InputError(
            f"{cell.directory}: was made with {'; '.join(different)}: name another --output, or remove that directory"
        )


def commands(ablation: Ablation) -> list[list[str]]:
    """The command of each cell, for this machine."""
    return commands_for(ablation.job, ablation.flags, ablation.launcher, None)


def pending(ablation: Ablation) -> Iterator[list[str]]:
    """The commands of the cells that are not finished, each named on the terminal when its turn comes."""
    for number, (cell, command) in enumerate(zip(ablation.cells, commands(ablation), strict=True), start=1):
        is_finished = state_of(cell)[0] == "finished"
        print(f"[{number}/{len(ablation.cells)}] {cell.name}{': finished before' if is_finished else ''}", flush=True)
        if not is_finished:
            yield command


def keep_grid(ablation: Ablation) -> Path:
    """A copy of the YAML beside the runs; returns its path."""
    copy = ablation.output / GRID_COPY
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(copy, ablation.source.read_text(encoding="utf-8"))
    return copy


def table_job(ablation: Ablation) -> tuple[Job, list[str]]:
    """(job, flags of its program) that makes the table when all runs have ended, however they ended."""
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
    """(state, what is to be said of it) of a cell's run."""
    status = read_status(cell.directory)
    if status is None:
        return "not started", "not started"
    said = f"{status.state} at step {status.step} of {status.num_steps}"
    return status.state, f"{said}: {status.reason}" if status.reason else said


def write_results(ablation: Ablation) -> str:
    """Write ablation.json, .md and .html of the finished runs; returns the Markdown. Raises InputError without any."""
    states = {cell.name: state_of(cell) for cell in ablation.cells}
    finished = [cell for cell in ablation.cells if states[cell.name][0] == "finished"]
    if not finished:
        raise InputError(f"{ablation.output}: none of the {len(ablation.cells)} runs is finished")
    analysis: dict[str, Any] = {
        "name": ablation.name,
        **analyse([_result(cell) for cell in finished], ablation.axes, ablation.compare),
        "runs": {cell.name: {"seed": cell.seed, "setting": cell.setting} for cell in finished},
        "unfinished": {name: said for name, (state, said) in states.items() if state != "finished"},
    }
    write_json_atomically(ablation.output / "ablation.json", analysis)
    text = render_markdown(analysis)
    write_text_atomically(ablation.output / "ablation.md", text)
    write_text_atomically(ablation.output / "ablation.html", render_page(analysis))
    return text


def _result(cell: Cell) -> FinishedRun:
    """What a finished run left. Raises InputError if it is not all there."""
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
            held_out_loss=training["eval/loss"],
            num_tokens=training["num_tokens"],
            seconds=training["seconds"],
        )
    except OSError as problem:
        raise InputError(f"{problem.filename}: {problem.strerror}: a finished run that played games has it") from None
    except (ValueError, KeyError) as problem:
        raise InputError(f"{cell.directory}: not the files of a finished run that played games ({problem!r})") from None
