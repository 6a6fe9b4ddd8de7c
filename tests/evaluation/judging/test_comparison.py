"""Comparisons from the words of --player to report.json, with tiny models."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from snake_dist.cluster.world import agree, gather, start_process_group, world_from_environment
from snake_dist.data.tokenization import hash_prompt
from snake_dist.errors import InputError
from snake_dist.evaluation.judging import comparison
from snake_dist.evaluation.judging.comparison import judge
from snake_dist.evaluation.judging.episodes import Games
from snake_dist.evaluation.judging.game_log import read_log
from snake_dist.evaluation.judging.spread import Ranks
from snake_dist.evaluation.judging.state_bank import build_bank, score_bank
from snake_dist.evaluation.play import Play, play
from snake_dist.evaluation.players import loading
from snake_dist.evaluation.players.entrants import mode_entrants
from snake_dist.files import broken_files, lock_directory
from snake_dist.game.symmetry import transform_state
from snake_dist.styles.catalog import render_prompt
from tests.support.entrants import find
from tests.support.ranks import run_on_ranks
from tests.support.tiny_models import tiny_adapter

GAMES = Games(5, "classic", range(1_100_000_000, 1_100_000_006), max_steps=8)


def test_modes_are_players_of_their_own(adapters):
    entrants, _ = find("adapter", adapters[0], "greedy")
    more = mode_entrants(entrants, 5, "classic", few_shot=2, constrained=True)
    assert [(entrant.name, entrant.base) for entrant in more] == [
        ("base 2-shot", None), ("base constrained", None), ("adapter constrained", "base"),
    ]  # fmt: skip
    assert len({entrant.identity for entrant in (*entrants, *more)}) == 6
    results, _ = judge([*entrants, *more], GAMES, [], None)
    for name, summary in results["players"].items():
        assert summary["format_valid_rate"]["value"] == 1 or "constrained" not in name


def test_a_comparison_is_logged_and_goes_on_where_it_stopped(tmp_path, adapters, monkeypatch):
    entrants, _ = find("adapter", adapters[0], "greedy")
    results, _ = judge(entrants, GAMES, build_bank(5, "classic", 12), tmp_path)
    assert results["players"].keys() == {"base", "adapter", "greedy"}
    assert results["state_bank"].keys() == results["players"].keys()
    assert results["gain_over_base"]["adapter"]["n"] == 6
    assert json.loads(json.dumps(results)) == results
    logs = {path.stem: read_log(path, check=True) for path in (tmp_path / "games").iterdir()}
    assert {name: len(games) for name, games in logs.items()} == {"base": 6, "adapter": 6, "greedy": 6}
    _, said = logs["adapter"][0]
    assert (len(said.prompts), len(said.tokens)) == (said.num_replies, said.num_replies)
    assert results["players"]["adapter"]["tokens_per_move"] > 0

    log = tmp_path / "games/greedy.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))
    monkeypatch.setattr(loading, "load_model_players", None)  # nothing is left for the models
    again, _ = judge(entrants, GAMES, [], tmp_path)
    for name in ("base", "adapter"):
        assert again["players"][name] == results["players"][name]
    assert without_time(again["players"]["greedy"]) == without_time(results["players"]["greedy"])


def test_positions_that_an_adapter_was_trained_on_are_left_out_of_the_bank(tmp_path, llama_dir, monkeypatch):
    bank = build_bank(5, "classic", 12)
    # Mirrored: as many training files show them.
    trained = [render_prompt(transform_state(state, 5), "compact") for state in bank[:4]]
    hashes = np.array([hash_prompt(prompt) for prompt in [*trained, *trained]], np.uint64)
    kept, bare = tmp_path / "kept/model_artifacts", tmp_path / "bare/model_artifacts"
    tiny_adapter(kept, llama_dir, prompt_hashes=hashes)
    tiny_adapter(bare, llama_dir)
    assert broken_files(kept) == []
    asked = []
    monkeypatch.setattr(comparison, "score_bank", lambda player, bank: asked.append(bank) or score_bank(player, bank))
    players = ("adapter", str(kept), str(bare), "greedy")
    play(Play(players, games=2, max_steps=2, report=tmp_path / "report", bank_states=12, ladder=False))
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["trained_positions"] == {str(kept): 4, str(bare): None}
    assert len(asked) == 4, "base, both adapters, greedy"
    for states in asked:
        assert states[:8] == bank[4:]
        assert len(states) == 12


def without_time(summary):
    return {name: value for name, value in summary.items() if name not in ("ms_per_move", "moves_per_second")}


def test_logs_of_other_games_are_refused_before_anything_is_played(tmp_path):
    entrants, _ = find("greedy", "bfs")
    judge(entrants[1:], GAMES, [], tmp_path)
    with pytest.raises(InputError, match=r"bfs\.jsonl: has games with grid_size 5, not 6"):
        judge(entrants, Games(6, "classic", GAMES.seeds, 8), [], tmp_path)
    assert (tmp_path / "games/greedy.jsonl").read_text() == ""


def test_a_run_removes_logs_of_other_weights_and_damaged_ones(tmp_path):
    entrants, _ = find("greedy", "bfs")
    expected, _ = judge(entrants, GAMES, [], tmp_path)
    greedy, bfs = tmp_path / "games/greedy.jsonl", tmp_path / "games/bfs.jsonl"
    greedy.write_text(greedy.read_text().replace('"identity":"greedy"', '"identity":"other weights"'))
    bfs.write_text("no game\n" + bfs.read_text())
    results, _ = judge(entrants, GAMES, [], tmp_path, removes_foreign_logs=True)
    for name in ("greedy", "bfs"):
        assert without_time(results["players"][name]) == without_time(expected["players"][name])
    assert [len(read_log(path, check=True)) for path in (greedy, bfs)] == [6, 6]


def compared_on_this_rank(adapter, directory):
    world = world_from_environment()
    start_process_group(world)
    entrants, _ = find("adapter", adapter, "greedy")
    ranks = Ranks(world.rank, world.size, partial(gather, world=world), partial(agree, world))
    own = directory if world.is_main else directory / "of another rank"  # which nobody may touch
    results, episodes = judge(entrants, GAMES, build_bank(5, "classic", 12), own, ranks=ranks)
    return (
        {name: without_time(summary) for name, summary in results["players"].items()},
        results["state_bank"],
        episodes,
    )


def test_two_ranks_play_what_one_plays_and_rank_0_writes(tmp_path, adapters):
    entrants, _ = find("adapter", adapters[1], "greedy")
    alone, games = judge(entrants, GAMES, build_bank(5, "classic", 12), None)
    expected = {name: without_time(summary) for name, summary in alone["players"].items()}
    first, second = run_on_ranks(compared_on_this_rank, 2, adapters[1], tmp_path)
    assert first == second == (expected, alone["state_bank"], games)
    logs = {path.stem: read_log(path, check=True) for path in (tmp_path / "games").iterdir()}
    assert {name: sorted(e.seed for _, e in log) for name, log in logs.items()} == {
        name: list(GAMES.seeds) for name in games
    }
    assert not (tmp_path / "of another rank").exists()

    path = tmp_path / "games/adapter.jsonl"
    kept = path.read_text().splitlines(keepends=True)[:2]
    path.write_text("".join(kept))
    assert run_on_ranks(compared_on_this_rank, 2, adapters[1], tmp_path) == [first, second]
    assert path.read_text().startswith("".join(kept))
    assert len(read_log(path, check=True)) == len(GAMES.seeds)


def test_one_run_at_a_time_writes_a_report(tmp_path):
    config = Play(("greedy",), games=2, grid_size=5, max_steps=4, report=tmp_path / "r", bank_states=0, ladder=False)
    held = lock_directory(tmp_path / "r", "test")
    with pytest.raises(InputError, match="--report .*/r: another run is using it: process "):
        play(config)
    assert not (tmp_path / "r/games").exists()
    held.release()
    play(config)
    play(config)
    assert len(read_log(tmp_path / "r/games/greedy.jsonl", check=True)) == 2
