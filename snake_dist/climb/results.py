"""What came out of a climb's stages: `climb.json`, and the table of `climb.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from snake_dist.climb.stages import Step
from snake_dist.evaluation.judging.intervals import with_interval
from snake_dist.evaluation.report.numbers import markdown_table
from snake_dist.files import ADAPTER_DIR, CONFIG, REPORT, SUMMARY, write_json_atomically, write_text_atomically
from snake_dist.run.summary import read_summary

HEAD = (
    "stage", "trained share", "training tokens", "minutes of training", "held-out loss", "board", "games",
    "apples per game", "boards filled", "steps per apple", "steps to fill", "legal moves", "state bank, legal",
)  # fmt: skip
_PLAYED = ("games", "apples", "fill_rate", "legal_move_rate", "steps_per_apple", "steps_to_fill")


def write_results(steps: Sequence[Step], output: Path) -> str:
    """Write both files, with every judged stage; returns the table: each stage, after the base model on its board."""
    stages = list(_judged(steps, output))
    write_json_atomically(output / "climb.json", {"stages": stages})
    rows: list[Sequence[str]] = [HEAD]
    boards: set[str] = set()
    for stage in stages:
        board = stage["board"]
        if board not in boards:
            rows.append(_row(["base", *"----", board], stage["base"]))
        boards.add(board)
        training = stage["training"]
        share, tokens = f"{100 * stage['trainable_share']:.1f} %", f"{training['num_tokens']:,}"
        minutes, loss = f"{training['seconds'] / 60:.0f}", f"{training['eval/loss']:.4f}"
        rows.append(_row([stage["stage"], share, tokens, minutes, loss, board], stage))
    table = markdown_table(rows)
    write_text_atomically(output / "climb.md", table + "\n")
    return table


def _judged(steps: Sequence[Step], output: Path) -> Iterator[dict[str, Any]]:
    """What a training's record and the report say of each stage that has both; paths are relative to `output`."""
    import yaml

    for directory in dict.fromkeys(step.stage for step in steps):
        run, judged = directory / "run", directory / "report" / REPORT
        if (run / SUMMARY).is_file() and judged.is_file():
            summary, report = read_summary(run), json.loads(judged.read_text())
            config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
            base, adapter = (_rates(report, who) for who in ("base", "adapter"))
            yield {
                "stage": directory.name,
                "adapter": str((run / ADAPTER_DIR).relative_to(output)),
                "seed": config["seed"],
                "ranks": summary["world_size"],
                "data_fingerprint": summary["data"]["fingerprint"],
                "train_examples": summary["data"]["train_examples"],
                "eval_examples": summary["data"]["eval_examples"],
                "trainable_share": summary["parameters"]["trainable_share"],
                "training": summary["training"],
                "board": "{grid_size}x{grid_size} {mode}".format(**report["settings"]),
                "base": base,
                **adapter,
            }


def _rates(report: Mapping[str, Any], player: str) -> dict[str, Any]:
    """A player's games, and `bank_legal_rate`: of the state bank's positions, None where the stage has no bank."""
    bank = report["state_bank"].get(player)
    played = {name: report["players"][player][name] for name in _PLAYED}
    return played | {"bank_legal_rate": bank and bank["legal_move_rate"]}


def _row(training: Sequence[str], played: Mapping[str, Any]) -> list[str]:
    bank = played["bank_legal_rate"]
    return [
        *training,
        str(played["games"]),
        _interval(played["apples"], 1),
        _interval(played["fill_rate"], 1, 100) + " %",
        "-" if played["steps_per_apple"] is None else f"{played['steps_per_apple']:.1f}",
        _interval(played["steps_to_fill"], 0),
        _interval(played["legal_move_rate"], 2, 100) + " %",
        _interval(bank, 2, 100) + f" % of {bank['n']:,}" if bank else "-",
    ]


def _interval(value: Mapping[str, Any], digits: int, scale: float = 1) -> str:
    """`89.7 [83.8, 93.8]`; `-` for what no game could say."""
    number = value["mean"] if "mean" in value else value["value"]
    if number is None:
        return "-"
    return with_interval(number, value["ci95"], f",.{digits}f", scale=scale)
