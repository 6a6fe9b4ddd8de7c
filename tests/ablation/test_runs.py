from __future__ import annotations

import json
from pathlib import Path

import pytest

from snake_dist.ablation.grid import read_ablation
from snake_dist.ablation.runs import check_cells, commands, pending, table_job, write_results
from snake_dist.errors import InputError
from snake_dist.evaluation.judging.intervals import bootstrap_mean_interval
from snake_dist.run.config import parse_run_config
from tests.support.ablations import PRESETS, finish_run, write_grid
from tests.support.browser import launched, opened


def read(directory, spec=PRESETS):
    return read_ablation(write_grid(directory, spec), directory / "out", "python")


def finish(ablation, policies=("random-legal", "bfs-safe"), **options):
    """All runs, those of each setting with its policy."""
    for i, cell in enumerate(ablation.cells):
        finish_run(cell.directory, policies[i * len(policies) // len(ablation.cells)], **options)


FAULTS = {
    "a cell's value": ({"grid": {"adapter": ["lora", "lroa"]}}, "adapter-lroa-seed-0: .*lroa"),
    "batch": (PRESETS | {"base": {"global-batch-size": 0}}, "preset-lightweight-seed-0: --global-batch-size 0"),
    "batch on ranks": (PRESETS | {"launch": {"ranks-per-node": 9}}, "at least the number of ranks, 9"),
    "no games": (PRESETS | {"base": {"play-games": 0}}, "play-games 0: an ablation compares the games"),
    "the same run twice": (
        {"grid": {"learning-rate": ["1e-3", "0.001"]}},
        "learning-rate-1e-3-seed-0 and learning-rate-0.001-seed-0 are the same run",
    ),
    "missing data": (PRESETS | {"base": {"data": "nowhere.jsonl"}}, "no such file.*nowhere.jsonl"),
    "budgets": (PRESETS | {"base": {"max-steps": 3, "max-tokens": 9}}, "--max-steps 3, --max-tokens 9: only one"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_run_starts_if_one_of_them_cannot(tmp_path, name):
    spec, message = FAULTS[name]
    with pytest.raises(InputError, match=message) as problem:
        check_cells(read(tmp_path, spec), is_here=True)
    assert "\n" not in str(problem.value)
    assert not (tmp_path / "out").exists()


def test_a_directory_of_another_grid_is_refused_even_where_its_runs_are_finished(tmp_path):
    ablation = read(tmp_path)
    finish(ablation)
    for cell in ablation.cells:
        (cell.directory / "config.yaml").write_text(parse_run_config(cell.flags).to_yaml())
    check_cells(ablation, is_here=True)
    how_only = {"save-every": 1, "micro-batch-size": 2, "wandb-mode": "disabled"}
    check_cells(read(tmp_path, PRESETS | {"base": PRESETS["base"] | how_only}), is_here=True)
    for name, value, said in (("learning-rate", "2e-3", "0.001, now 0.002"), ("play-games", 13, "12, now 13")):
        other = read(tmp_path, PRESETS | {"base": PRESETS["base"] | {name: value}})
        with pytest.raises(
            InputError, match=f"preset-lightweight-seed-0: has a run with {name} {said}: choose"
        ) as problem:
            check_cells(other, is_here=True)
        assert "\n" not in str(problem.value)


def test_only_what_is_not_finished_is_run(tmp_path, capsys):
    ablation = read(tmp_path)
    finish_run(ablation.cells[1].directory, "bfs")
    started = list(pending(ablation))
    assert started == [command for i, command in enumerate(commands(ablation)) if i != 1]
    assert "[2/4] preset-lightweight-seed-1: finished before" in capsys.readouterr().out
    for command, cell in zip(commands(ablation), ablation.cells, strict=True):
        flags = command[command.index("launcher/train.py") + 1 :]
        config = parse_run_config(flags)
        assert (config.output.output_dir, config.checkpoint.resume) == (str(cell.directory), "auto")
        assert (config.adapter.preset, config.training.seed) == (cell.choice["preset"], cell.seed)


def test_the_table_is_made_behind_the_array(tmp_path):
    ablation = read(tmp_path, PRESETS | {"launch": {"gpus-per-node": 4, "nodes": 2, "partition": "gpu", "time": "1-0"}})
    job, flags = table_job(ablation)
    assert (job.after, job.after_kind, job.partition) == (("grid",), "afterany", "gpu")
    assert (job.nodes, job.gpus_per_node, job.variants, job.seeds) == (1, 0, (), ())
    assert flags == [f"{tmp_path}/out/grid.yaml", "--output", f"{tmp_path}/out", "--table"]


def test_the_result_is_of_the_games_that_were_played(tmp_path):
    ablation = read(tmp_path)
    with pytest.raises(InputError, match="none of the 4 runs is finished"):
        write_results(ablation)
    finish(ablation)
    status = ablation.cells[3].directory / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "failed", "reason": "diverged"}))
    text = write_results(ablation)
    assert "preset: balanced beats lightweight by " in text
    assert "- preset-balanced-seed-1: failed at step 3 of 3: diverged" in text
    analysis = json.loads((tmp_path / "out/ablation.json").read_text())
    log = (ablation.cells[2].directory / "report/games/adapter.jsonl").read_text()
    apples = [json.loads(line)["score"] for line in log.splitlines()]
    weak, strong = analysis["settings"]
    assert strong["apples"]["mean"] == pytest.approx(sum(apples) / 12)
    # One seed: over games, in the order of their seeds (the log has that of their ends).
    assert strong["apples"]["ci95"] == pytest.approx(bootstrap_mean_interval(apples), abs=0.2)
    assert len(weak["apples"]["by_seed"]) == 2
    [verdict] = analysis["verdicts"]["preset"]
    assert verdict["mean"] == pytest.approx(strong["apples"]["mean"] - weak["apples"]["by_seed"]["0"])
    assert (tmp_path / "out/ablation.md").read_text() == text


def test_files_that_are_not_a_finished_runs_are_named(tmp_path):
    ablation = read(tmp_path)
    finish(ablation)
    (ablation.cells[0].directory / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="preset-lightweight-seed-0: incomplete results of a finished run"):
        write_results(ablation)
    (ablation.cells[0].directory / "report/report.json").unlink()
    with pytest.raises(InputError, match="report.json: No such file"):
        write_results(ablation)


def test_the_page_opens_from_disk_on_a_phone_and_in_the_dark(tmp_path):
    ablation = read(tmp_path, PRESETS | {"grid": {"preset": ["lightweight", "balanced"], "rank": [4, 8]}})
    finish(ablation, ("random-legal", "greedy", "bfs", "bfs-safe"))
    write_results(ablation)
    page_file = tmp_path / "out/ablation.html"
    with launched() as browser:
        for width, scheme in ((1100, "light"), (360, "dark")):
            with opened(browser, page_file, width, scheme) as page:
                assert page.locator(".ladder tbody tr:not(.axis)").count() == 4
                assert page.locator(".ladder .track s").count() == 8
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert page.locator(".ladder").get_by_text("preset balanced, rank 8").is_visible()
                assert "rank" in page.locator("h3").all_inner_texts()
                box = page.locator(".ladder .track").first.bounding_box()
                for dot in page.locator(".ladder .track b, .ladder .track s").all():
                    at = dot.bounding_box()
                    assert box["x"] - 7 <= at["x"] <= box["x"] + box["width"] + 7
                links = page.locator("main a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
                assert len(links) == 8
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
                    "rgb(247, 247, 244)" if scheme == "light" else "rgb(19, 22, 20)"
                )
    assert all((page_file.parent / Path(link).parent / "report.json").is_file() for link in links)


def test_what_a_user_calls_things_cannot_become_part_of_the_page(tmp_path):
    spec = {"grid": {"<b>": {"<script>x</script>": {"rank": 4}, "b": {"rank": 8}}}, "base": {"play-games": 12}}
    ablation = read(tmp_path, spec)
    finish(ablation)
    write_results(ablation)
    page = (tmp_path / "out/ablation.html").read_text()
    assert "<script" not in page
    assert "<h3>&lt;b&gt;</h3>" in page
