"""The results of a climb's stages: `climb.json`, and the table of `climb.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from snake_dist.climb.stages import Step
from snake_dist.evaluation.judging.comparison import Results
from snake_dist.evaluation.judging.intervals import Mean, Rate, with_interval
from snake_dist.evaluation.judging.metrics import Apples
from snake_dist.evaluation.report.numbers import markdown_table
from snake_dist.files import ADAPTER_DIR, CONFIG, REPORT, SUMMARY, write_json_atomically, write_text_atomically
from snake_dist.run.summary import read_summary

HEAD = (
    "stage", "trained share", "training tokens", "minutes of training", "held-out loss", "board", "games",
    "apples per game", "boards filled", "steps per apple", "steps to fill", "legal moves", "state bank, legal",
)  # fmt: skip


def write_results(steps: Sequence[Step], output: Path) -> str:
    """Write both files, with every judged stage, and return the table: each board's base model, then its stages."""
    stages = list(_judged(steps, output))
    write_json_atomically(output / "climb.json", {"stages": [stage for stage, _ in stages]})
    rows: list[Sequence[str]] = [HEAD]
    boards: set[str] = set()
    for stage, adapter in stages:
        board = stage["board"]
        if board not in boards:
            rows.append(_row(["base", *"----", board], stage["base"]))
        boards.add(board)
        training = stage["training"]
        share, tokens = f"{100 * stage['trainable_share']:.1f} %", f"{training['num_tokens']:,}"
        minutes = f"{training['seconds'] / 60:.0f}"
        loss = f"{training['eval/loss']:.4f}" if "eval/loss" in training else "-"
        rows.append(_row([stage["stage"], share, tokens, minutes, loss, board], adapter))
    table = markdown_table(rows)
    write_text_atomically(output / "climb.md", table + "\n")
    return table


def _judged(steps: Sequence[Step], output: Path) -> Iterator[tuple[dict[str, Any], _Rates]]:
    """Join the run's summary and the report of each stage that has both; paths are relative to `output`."""
    import yaml

    for directory in dict.fromkeys(step.stage for step in steps):
        run, judged = directory / "run", directory / "report" / REPORT
        if (run / SUMMARY).is_file() and judged.is_file():
            summary, report = read_summary(run), json.loads(judged.read_text())
            config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
            base, adapter = (_rates(report, who) for who in ("base", "adapter"))
            stage = {
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
            yield stage, adapter


class _Rates(TypedDict):
    """The metrics of a player's games in climb.json."""

    games: int
    apples: Apples
    fill_rate: Rate
    legal_move_rate: Rate
    steps_per_apple: float | None
    steps_to_fill: Mean
    bank_legal_rate: Rate | None
    """Share of legal moves in the state bank; None if the report has no bank."""


def _rates(results: Results, name: str) -> _Rates:
    player, bank = results["players"][name], results["state_bank"].get(name)
    return {
        "games": player["games"],
        "apples": player["apples"],
        "fill_rate": player["fill_rate"],
        "legal_move_rate": player["legal_move_rate"],
        "steps_per_apple": player["steps_per_apple"],
        "steps_to_fill": player["steps_to_fill"],
        "bank_legal_rate": bank and bank["legal_move_rate"],
    }


def _row(training: Sequence[str], played: _Rates) -> list[str]:
    bank = played["bank_legal_rate"]
    return [
        *training,
        str(played["games"]),
        with_interval(played["apples"]["mean"], played["apples"]["ci95"], ",.1f"),
        _rate(played["fill_rate"], 1),
        with_interval(played["steps_per_apple"], None, ".1f"),
        with_interval(played["steps_to_fill"]["mean"], played["steps_to_fill"]["ci95"], ",.0f"),
        _rate(played["legal_move_rate"], 2),
        f"{_rate(bank, 2)} of {bank['n']:,}" if bank else "-",
    ]


def _rate(rate: Rate, digits: int) -> str:
    return with_interval(rate["value"], rate["ci95"], f".{digits}f", scale=100) + " %"
