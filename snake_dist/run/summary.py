"""The summary of a run: summary.json, and the closing lines on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypedDict

from snake_dist.evaluation.judging.comparison import Results
from snake_dist.evaluation.judging.intervals import with_interval
from snake_dist.evaluation.report.numbers import render_table
from snake_dist.files import SUMMARY
from snake_dist.run.data import NO_SHARE, DataSummary
from snake_dist.training.metrics import EXACT_COMPLETIONS, HELD_OUT_LOSS, LOSS


class ParameterCounts(TypedDict):
    """Parameters of the model, over all ranks."""

    trainable: int
    total: int
    trainable_share: float


class RunFacts(TypedDict):
    """What is known before the first step."""

    output_dir: str
    adapter_dir: str
    world_size: int
    dtype: str
    zero_stage: int
    board: dict[str, Any]
    data: DataSummary
    packed: bool
    parameters: ParameterCounts


TrainingSummary = TypedDict(
    "TrainingSummary",
    {
        "num_steps": int,
        "num_tokens": int,
        "num_loss_tokens": int,
        "seconds": float,
        "base_bytes_per_rank": list[int],
        "first_loss": float,
        "tokens_per_s": float,
        "loss_tokens_per_s": float,
        "train/loss": float,
        "eval/loss": float,
        "eval/exact_completions": float,
    },
)
"""Totals and medians of the training, and the last value of every logged metric, of which only some are typed."""


class Played(TypedDict, total=False):
    """The games at the end, or why there were none."""

    play: Results
    why_no_games: str


class _Ending(Played, total=False):
    report: str
    """Path of the HTML page, if games were played."""
    stopped_at_step: int
    """Only of a run that was asked to stop."""


class Summary(RunFacts, _Ending):
    """What summary.json holds."""

    training: TrainingSummary


def read_summary(run_dir: Path) -> Summary:
    """Return what summary.json holds. Raises OSError or ValueError if it cannot be read."""
    return json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))


def render_lines(data: DataSummary) -> str:
    """Return in a line what becomes of every line of the data."""
    skipped = {reason: number for reason, number in data["skipped_lines"].items() if number}
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in skipped.items())
    return (
        f"{_counted(len(data['files']), 'file')}, {_counted(data['num_lines'], 'line')}: {data['train_examples']:,} to "
        f"train on, {data['eval_examples']:,} held out, {sum(skipped.values()):,} skipped"
        f"{f' ({reasons})' if reasons else ''}"
    )


def render_data(data: DataSummary) -> str:
    """Return in a line what becomes of every line of the data, and which files beside them are not read."""
    names = [Path(path).name for path in data["passed_over"]]
    shown = ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
    others = f"; passed over beside them: {_counted(len(names), 'file')} ({shown})" if names else ""
    return render_lines(data) + others


def data_notices(data: DataSummary) -> list[str]:
    """Return what the user may not expect of the data, a sentence each."""
    notices = [
        f"{number:,} lines bear {token}, where training writes it too: it stands there once"
        for token, number in data["own_special_tokens"].items()
    ]
    if data["why_none_held_out"] not in (None, NO_SHARE):
        notices.append(f"nothing is held out: {data['why_none_held_out']}; --eval-data brings examples to be judged by")
    return notices


def _held_out(training: TrainingSummary, data: DataSummary) -> str:
    if not data["eval_examples"]:
        return f"none: {data['why_none_held_out']}"
    return (
        f"{training[HELD_OUT_LOSS]:.4f} on {data['eval_examples']} examples of games not trained "
        f"on; {training[EXACT_COMPLETIONS]:.1%} of completions reproduced exactly"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def render_summary(summary: Summary) -> str:
    """Return the closing lines of a run, for people."""
    training, data = summary["training"], summary["data"]
    lines = [
        "",
        f"data                {render_lines(data)}",
        f"loss                {training['first_loss']:.4f} at the first step, {training[LOSS]:.4f} at the last",
        f"held-out loss       {_held_out(training, data)}",
        f"speed               {training['tokens_per_s']:.0f} tokens/s, {training['loss_tokens_per_s']:.0f} of them "
        f"trained; {training['num_steps']} steps in {training['seconds']:.0f} s on {summary['world_size']} rank(s)",
    ]
    play = summary.get("play")
    if play is None:
        lines.append(f"games               none: {summary['why_no_games']}")
    else:
        lines += ["", render_table(play["players"]), ""]
        for name, scores in play["state_bank"].items():
            optimal, legal = scores["optimal_set_rate"], scores["legal_move_rate"]
            lines.append(
                f"{name + ':':9} on {scores['n']} unseen positions "
                f"{with_interval(optimal['value'], optimal['ci95'], '.1%')} of moves optimal, "
                f"{legal['value']:.1%} legal"
            )
    lines += [
        "",
        *([] if play is None else [f"report              {summary['report']}"]),
        f"adapter             {summary['adapter_dir']}",
        f"everything else     {summary['output_dir']}",
    ]
    return "\n".join(lines)
