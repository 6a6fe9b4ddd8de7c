"""Tables of lost games: every move, game and loss is counted once, and false claims are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launcher import analyse as program
from snake_dist.data.tokenization import hash_prompt
from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import GameLog, Header, replay
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.evaluation.players.trained_prompts import TrainedPrompts
from snake_dist.evaluation.report import analysis
from snake_dist.evaluation.report.analysis import LOSSES, Analysis, analyse
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_prompt


class Liar:
    """Goes the greedy way and says of every move to the right that it leads to cell 99."""

    def replies(self, states):
        moves = [POLICIES["greedy"](state).value for state in states]
        return [f"R99. ok U. apple 59 R 55 -. Move: {move}" for move in moves]


def logged(path, player, seeds=range(30)):
    episodes = play_games(player, Games(5, "classic", seeds, 0))
    with GameLog(path, Header("adapter", "model", "x", 5, "classic", 0, 0)) as log:
        for episode in episodes:
            log.append(episode)
    return episodes


def rows_of(table):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def whole(text):
    return int(text.replace(",", ""))


def test_every_move_and_loss_is_in_one_row(tmp_path):
    episodes = logged(tmp_path / "games.jsonl", HeuristicPlayer(POLICIES["greedy"]))
    rows = rows_of(analyse(Analysis((tmp_path / "games.jsonl",), "greedy")).split("\n\n")[1])
    assert sum(whole(row["moves"]) for row in rows) == sum(episode.steps for episode in episodes)
    for loss in LOSSES:
        number = sum(episode.end == loss for episode in episodes)
        assert sum(whole(row[loss.replace("_", " ")]) for row in rows) == number
    assert whole(rows[0]["games"]) == 30
    assert whole(rows[1]["games"]) == sum(episode.score >= 5 for episode in episodes)
    assert {row["replies against greedy"].split()[0] for row in rows} == {"0"}
    lost = sum(1 for episode in episodes if episode.score < 5 and episode.end in LOSSES)
    assert rows[0]["lost per 1,000 moves"].startswith(f"{1000 * lost / whole(rows[0]['moves']):.2f} [")


def test_another_policy_disagrees(tmp_path):
    logged(tmp_path / "games.jsonl", HeuristicPlayer(POLICIES["greedy"]))
    rows = rows_of(analyse(Analysis((tmp_path / "games.jsonl",), "random-legal")).split("\n\n")[1])
    assert whole(rows[0]["replies against random-legal"].split()[0]) > 0


def test_prompts_of_the_training_are_told_from_others(tmp_path):
    [episode] = logged(tmp_path / "games.jsonl", HeuristicPlayer(POLICIES["greedy"]), range(1))
    states = list(replay(5, "classic", episode.seed, episode.moves))[: episode.num_replies]
    known = [hash_prompt(render_prompt(state, "compact")) for state in states[:3]]
    trained = TrainedPrompts("compact", np.unique(np.array(known, np.uint64)))
    games = [(Header("adapter", "model", "x", 5, "classic", 0, 0), episode)]
    replies = list(analysis._compared(games, "random-legal"))
    on, off = rows_of(analysis._memory(replies, trained, "random-legal"))
    assert (on["prompt"], whole(on["replies"])) == ("trained on", 3)
    assert whole(off["replies"]) == episode.num_replies - 3
    others = [move != POLICIES["random-legal"](state).value for move, state in zip(episode.moves, states, strict=True)]
    assert [whole(row["against random-legal"]) for row in (on, off)] == [sum(others[:3]), sum(others[3:])]


def test_false_claims_are_counted_by_kind(tmp_path):
    episodes = logged(tmp_path / "games.jsonl", Liar())
    num_replies = sum(episode.num_replies for episode in episodes)
    rows = {row["claim"]: row for row in rows_of(analyse(Analysis((tmp_path / "games.jsonl",))).split("\n\n")[3])}
    led = rows["where a move leads"]
    assert whole(led["made"]) == whole(led["false"]) == num_replies
    assert whole(led["lost games with one in the last reply"]) == sum(episode.end in LOSSES for episode in episodes)
    assert whole(rows["side of the apple"]["made"]) == 2 * num_replies
    assert 0 < whole(rows["ok"]["false"]) <= num_replies


@pytest.mark.parametrize(
    ("claim", "kind"),
    {
        "so R26": "so", "at 23": "at", "follow": "follow", "Distance: 4": "Distance", "R46 body": "where a move leads",
        "Found path to apple (7 steps)": "Found path to apple", "'up': 1": "up", "from [3, 4]": "from",
        "39 R": "side of the apple", "66 -": "side of the apple", "so c": "so", "so 0306": "so", "a c g": "free cells",
        "b": "free cells", "0306 0405": "free cells",
    }.items(),
)  # fmt: skip
def test_kinds_of_claims(claim, kind):
    assert analysis._kind(claim) == kind


def test_the_command(tmp_path, capsys):
    logged(tmp_path / "a.jsonl", HeuristicPlayer(POLICIES["bfs"]), range(4))
    program.main(["--games", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")])
    printed = capsys.readouterr().out
    assert "| 1-5 | 8 |" in printed
    assert "False claims" not in printed


@pytest.mark.parametrize(
    ("flags", "named"),
    [({"policy": "nobody"}, "nobody"), ({}, "no game"), ({"adapter": Path("none")}, "adapter 'none': no readable")],
)
def test_bad_input(tmp_path, flags, named):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=named):
        analyse(Analysis((tmp_path / "empty.jsonl",), **flags))
