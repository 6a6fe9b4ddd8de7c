from __future__ import annotations

import json
from dataclasses import replace

import pytest

from snake_dist.evaluation.judging.episodes import Episode, Games, play_games
from snake_dist.evaluation.judging.intervals import paired_gain
from snake_dist.evaluation.judging.metrics import summarize
from snake_dist.evaluation.judging.state_bank import build_bank, score_bank
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.evaluation.report.numbers import flatten, render_table, write_report
from snake_dist.evaluation.report.page_rows import ladder_rows
from snake_dist.game.board import End
from snake_dist.heuristics.policies import POLICIES
from tests.support.processes import ROOT

METRICS_PAGE = ROOT / "docs/metrics.md"


def episode(seed=0, score=0, legal=0, end="invalid_reply"):
    """A game of `legal` legal moves; an illegal move or an invalid reply comes on top."""
    fatal = end in ("wall", "self", "reversal")
    failed = fatal or end == "invalid_reply"
    return Episode(
        grid_size=10,
        mode="classic",
        seed=seed,
        score=score,
        steps=legal + fatal,
        end=end,
        num_replies=legal + failed,
        num_valid_format=legal + fatal,
        num_legal=legal,
        moves=("UP",) * (legal + fatal),
        replies=("",) * (legal + failed),
    )


BASE = summarize([episode(seed) for seed in range(20)])
ADAPTER = summarize(
    [episode(seed, 3, 30, "self") for seed in range(12)] + [episode(seed, 9, 80, "step_cap") for seed in range(8)]
)


def test_numbers_of_known_games():
    summary = summarize([episode(1, 0, 3, "wall"), episode(2, 4, 20, "trapped"), episode(3, 2, 9, "invalid_reply")])
    assert summary["games"] == 3
    assert (summary["apples"]["mean"], summary["apples"]["median"], summary["apples"]["max"]) == (2, 2, 4)
    assert summary["apples"]["ci95"][0] < 2 < summary["apples"]["ci95"][1]
    assert (summary["legal_move_rate"]["value"], summary["legal_move_rate"]["n"]) == (32 / 34, 34)
    assert (summary["format_valid_rate"]["value"], summary["format_valid_rate"]["n"]) == (33 / 34, 34)
    assert summary["steps"] == {"mean": 11}
    assert summary["steps_per_apple"] == 33 / 6
    assert summary["steps_to_fill"] == {"mean": None, "ci95": None}
    filled = summarize([episode(1, 99, 1400, "board_full"), episode(2, 99, 1500, "board_full"), episode(3, 2, 9)])
    assert filled["steps_to_fill"]["mean"] == 1450
    timed = summarize([replace(episode(1, 0, 3, "wall"), ms=(10, 20, 30, 20))])
    assert (timed["ms_per_move"], timed["moves_per_second"]) == (20, 50)
    assert summary["ms_per_move"] is summary["moves_per_second"] is None
    assert {reason for reason, count in summary["ends"].items() if count} == {
        "wall",
        "trapped",
        "invalid_reply",
    }


def test_costs_and_legality_are_per_move_where_a_reply_makes_several():
    game = replace(
        episode(1, 0, 6, "self"),
        num_replies=3, num_valid_format=3, moves_made=(4, 2, 1), tokens=(20, 12, 10), ms=(8, 4, 2), replies=("",) * 3,
    )  # fmt: skip
    summary = summarize([game])
    assert (summary["legal_move_rate"]["value"], summary["legal_move_rate"]["n"]) == (6 / 7, 7)
    assert (summary["format_valid_rate"]["value"], summary["format_valid_rate"]["n"]) == (1, 3)
    assert (summary["moves_per_reply"], summary["tokens_per_move"]) == (7 / 3, 6)
    assert (summary["ms_per_move"], summary["moves_per_second"]) == (2, 500)


@pytest.mark.parametrize("policy", ["random-legal", "bfs"])
def test_ends_sum_to_games(policy):
    summary = summarize(play_games(HeuristicPlayer(POLICIES[policy]), Games(5, "classic", range(40), 20)))
    assert sum(summary["ends"].values()) == summary["games"] == 40
    assert list(summary["ends"]) == [end.value for end in End]
    assert summary["legal_move_rate"]["value"] == summary["format_valid_rate"]["value"] == 1


def test_a_player_that_names_no_move_is_told_apart_from_one_that_plays():
    assert BASE["apples"] == {"mean": 0, "ci95": [0, 0], "median": 0, "p5": 0, "max": 0}
    assert BASE["steps_per_apple"] is None
    assert BASE["legal_move_rate"]["ci95"][1] < 0.2
    for name in ("legal_move_rate", "format_valid_rate"):
        assert BASE[name]["ci95"][1] < ADAPTER[name]["ci95"][0]


def test_nothing_to_summarize():
    with pytest.raises(ValueError, match="no episode"):
        summarize([])


def test_table_fits_and_aligns():
    many = {end.value: 11 for end in End}
    names = {"base": BASE, "adapter": ADAPTER, "runs/an/adapter/with/a/long/path": ADAPTER | {"ends": many}}
    lines = render_table(names).splitlines()
    assert max(map(len, lines)) <= 100
    column = lines[0].index("games ended by")
    assert all(line[column - 1] == " " != line[column] for line in lines)
    text = " ".join(line[column:] for line in lines[4:])
    assert all(f"{end.value.replace('_', ' ')} 11" in text for end in End)
    assert lines[1].split()[:5] == ["base", "20", "0.00", "[0.00,", "0.00]"]
    assert render_table({"adapter": ADAPTER}).endswith("self 12, step cap 8")


def test_table_of_a_single_game_has_no_interval_for_apples():
    assert "[" not in render_table({"one": summarize([episode(1, 2, 9, "self")])}).split("\n")[1][:24]


def test_flat_names():
    flat = flatten(ADAPTER, "play/adapter")
    assert flat["play/adapter/apples/mean"] == 5.4
    assert flat["play/adapter/apples/ci95_low"] == ADAPTER["apples"]["ci95"][0]
    assert flat["play/adapter/legal_move_rate/ci95_high"] == ADAPTER["legal_move_rate"]["ci95"][1]
    assert flat["play/adapter/ends/step_cap"] == 8
    assert all(isinstance(value, (int, float)) for value in flat.values())
    assert "play/base/steps_per_apple" not in flatten(BASE, "play/base")


def test_report_is_written_over_the_old_one(tmp_path):
    for players in ({"base": BASE}, {"base": BASE, "adapter": ADAPTER}):
        path = write_report(tmp_path / "new" / "folder", {"players": players, "state_bank": {}}, {"grid_size": 10})
        assert json.loads(path.read_text()) == {
            "settings": {"grid_size": 10},
            "players": players,
            "state_bank": {},
        }
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_every_name_is_documented():
    page = METRICS_PAGE.read_text()
    player = HeuristicPlayer(POLICIES["bfs"])
    bank_scores = score_bank(player, build_bank(5, "classic", 4))
    names = {
        *leaves(summarize([episode()])),
        *leaves(bank_scores),
        *leaves({"gain_over_base": paired_gain([1, 2], [1, 1])}),
    }
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    assert all(f"`{bucket}`" in page for bucket in bank_scores["by_fill"])


def test_published_rows_stand_beside_comparable_games_only():
    settings = {"grid_size": 10, "mode": "classic", "max_steps": 0}
    players = {"bfs": summarize([episode(seed, score=20 + seed) for seed in range(5)])}
    rows = {row["name"]: row["text"] for row in ladder_rows(players, {}, settings)[0]}
    assert rows["deepseek-reasoner (2 games)"] == "22.50"
    assert rows["hunyuan-t1 (8 games)"].startswith("16.25 [")
    for other in ({"grid_size": 8}, {"mode": "wrap"}, {"max_steps": 100}):
        assert [row["name"] for row in ladder_rows(players, {}, settings | other)[0]] == ["bfs"]


def leaves(tree, prefix=""):
    """Dotted paths, with rates (value, ci95, n) and the table of ends taken as one entry each."""
    for key, value in tree.items():
        if isinstance(value, dict) and "value" not in value and key not in ("ends", "end_shares") and "by" not in key:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_a_solved_board_shows_what_moves_cost():
    games = Games(4, "classic", range(40), 0)
    players = {name: summarize(play_games(HeuristicPlayer(POLICIES[name]), games)) for name in ("optimal", "greedy")}
    optimal, greedy = render_table(players).splitlines()[-2:]
    assert optimal == "optimal: regret 0.00 steps a move, 100.0% of moves optimal, 0.0% give up certainty"
    assert greedy.startswith("greedy: regret 0.")
    assert "regret" not in render_table(
        {"greedy": summarize(play_games(HeuristicPlayer(POLICIES["greedy"]), Games(6, "classic", range(2), 0)))}
    )
