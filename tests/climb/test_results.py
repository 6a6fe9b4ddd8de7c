"""The table of a climb: each stage that was trained and judged, after the base model on its board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from snake_dist.climb.results import write_results
from snake_dist.climb.stages import Step

TRAINED = {
    "training": {"num_tokens": 399_856, "seconds": 1080.0, "eval/loss": 0.0031},
    "world_size": 2,
    "parameters": {"trainable_share": 0.0677},
    "data": {"fingerprint": "ca10", "train_examples": 3968, "eval_examples": 72},
}


def played(apples: float, legal: float) -> dict[str, Any]:
    return {
        "games": 200,
        "apples": {"mean": apples, "ci95": [apples - 1, apples + 1]},
        "fill_rate": {"value": 0.0, "ci95": [0.0, 0.019]},
        "legal_move_rate": {"value": legal, "ci95": [legal, legal]},
        "steps_per_apple": 7.5 if apples else None,
        "steps_to_fill": {"mean": None, "ci95": None},
    }


def judged(grid_size: int, bank: dict[str, Any]) -> dict[str, Any]:
    players = {"base": played(0, 0), "adapter": played(15.75, 0.9959)}
    return {"settings": {"grid_size": grid_size, "mode": "classic"}, "players": players, "state_bank": bank}


def stage(directory: Path, report: dict[str, Any] | None) -> Step:
    for path, content in (("run/summary.json", TRAINED), ("report/report.json", report)):
        if content:
            (directory / path).parent.mkdir(parents=True)
            (directory / path).write_text(json.dumps(content))
    (directory / "run/config.yaml").write_text("seed: 7\n")
    return Step(directory, directory / "report/report.json", [])


def test_a_row_has_what_a_stage_was_trained_with_and_how_it_played(tmp_path: Path) -> None:
    bank = {
        who: {"legal_move_rate": {"value": value, "ci95": [value - 0.001, value + 0.002], "n": 1000}}
        for who, value in (("base", 0.001), ("adapter", 0.994))
    }
    steps = [
        stage(tmp_path / "1-compact", judged(10, bank)),
        stage(tmp_path / "2-move", judged(10, {})),
        stage(tmp_path / "3-small", judged(6, {})),
        stage(tmp_path / "4-not-judged", None),
    ]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in write_results(steps, tmp_path).splitlines()]
    assert len({len(row) for row in rows}) == 1, "each row has the head's columns"
    assert [(row[0], row[5]) for row in rows[2:]] == [
        ("base", "10x10 classic"),
        ("1-compact", "10x10 classic"),
        ("2-move", "10x10 classic"),
        ("base", "6x6 classic"),
        ("3-small", "6x6 classic"),
    ]
    assert rows[3][1:5] == ["6.8 %", "399,856", "18", "0.0031"]
    assert rows[3][6:10] == ["200", "15.8 [14.8, 16.8]", "0.0 [0.0, 1.9] %", "7.5"]
    assert rows[3][10:] == ["-", "99.59 [99.59, 99.59] %", "99.40 [99.30, 99.60] % of 1,000"]
    assert rows[4][12] == "-", "no bank was asked for"
    [compact, *_] = json.loads((tmp_path / "climb.json").read_text())["stages"]
    assert compact["bank_legal_rate"]["value"] == 0.994
    assert (compact["seed"], compact["data_fingerprint"]) == (7, "ca10")
    assert compact["training"]["eval/loss"] == 0.0031
    assert compact["adapter"] == "1-compact/run/lora_adapters/model_artifacts", "a climb's directory may be moved"
