from __future__ import annotations

import json
from dataclasses import replace

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import GameLog, Header, read_log, replay, to_line
from snake_dist.evaluation.players.protocol import Answer, HeuristicPlayer
from snake_dist.game.board import MODES, Move
from snake_dist.game.symmetry import NUM_SYMMETRIES, inverse, transform_move
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_prompt
from tests.support.planner import Planner

MAX_STEPS = 60


class Talker:
    """A greedy player that says what it was shown, claims something, and falls silent after 20 moves."""

    def replies(self, states):
        return [answer.text for answer in self.answers(states)]

    def answers(self, states):
        return [self._answer(state) for state in states]

    def _answer(self, state):
        move = POLICIES["greedy"](state).value
        text = f"ok U D. apple 12 R 34 U. Move: {move}" if state.steps < 20 else 'é "hm"'
        return Answer(text, render_prompt(state, "compact"), len(text))


def header(mode="classic", **other):
    known = {"player": "p", "kind": "heuristic", "identity": "p 1", "grid_size": 6, "mode": mode}
    return Header(**known | {"max_steps": MAX_STEPS} | other)


def play(player, mode="classic", seeds=range(8), symmetry=0, **options):
    return play_games(player, Games(6, mode, seeds, MAX_STEPS, symmetry), 4, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "player", [HeuristicPlayer(POLICIES["bfs"]), Talker(), Planner()], ids=["heuristic", "talker", "planner"]
)
def test_a_game_comes_back_as_it_was_written(tmp_path, mode, player):
    with GameLog(tmp_path / "games" / "p.jsonl", header(mode)) as log:
        played = play(player, mode, on_finished=log.append)
    read = read_log(tmp_path / "games" / "p.jsonl", check=True)
    assert {found for found, _ in read} == {header(mode)}
    assert sorted((episode for _, episode in read), key=lambda episode: episode.seed) == played
    assert all(len(episode.ms) == episode.num_replies for _, episode in read)


def test_what_a_model_said_and_saw_is_in_the_line():
    (episode,) = play(Talker(), seeds=[3])
    line = json.loads(to_line(header(), episode))
    assert len(line["prompts"]) == len(line["replies"]) == len(line["tokens"]) == len(line["claims"]) == len(line["ms"])
    for state, prompt in zip(replay(6, "classic", 3, episode.moves), episode.prompts, strict=False):
        assert prompt == render_prompt(state, "compact")
    start, end, _ = line["claims"][0][0]
    assert line["replies"][0][start:end] == "ok U D"


def test_a_log_of_single_moves_reads_as_one_move_a_reply():
    for player, last in ((Talker(), 0), (HeuristicPlayer(POLICIES["greedy"]), 1)):
        (episode,) = play(player, seeds=[3])
        line = to_line(header(), episode)
        assert "moves_made" not in json.loads(line)
        assert read_back(episode).moves_made == episode.moves_made == (1,) * (episode.num_replies - 1) + (last,)


PLANS = {
    "a move too many": (lambda made: [made[0] + 1, *made[1:]], "replies for"),
    "a reply without a move": (lambda made: [0, made[0] + made[1], *made[2:]], "replies for"),
    "a reply too few": (lambda made: [made[0] + made[1], *made[2:]], "replies for"),
}


@pytest.mark.parametrize("name", PLANS)
def test_moves_that_the_replies_do_not_account_for_are_refused(tmp_path, name):
    change, message = PLANS[name]
    (episode,) = play(Planner(), seeds=[3])
    line = json.loads(to_line(header(), episode))
    (tmp_path / "p.jsonl").write_text(json.dumps(line | {"moves_made": change(line["moves_made"])}) + "\n")
    with pytest.raises(InputError, match=message):
        read_log(tmp_path / "p.jsonl", check=True)


def test_a_stopped_comparison_goes_on_with_the_games_that_are_missing(tmp_path):
    path, player = tmp_path / "p.jsonl", HeuristicPlayer(POLICIES["bfs"])
    with GameLog(path, header()) as log:
        whole = play(player, on_finished=log.append)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed while it wrote
    with GameLog(path, header()) as log:
        kept = dict(log.finished)
        assert len(kept) == 3
        play(player, seeds=[seed for seed in range(8) if seed not in kept], on_finished=log.append)
    read = [episode for _, episode in read_log(path, check=True)]
    assert sorted(read, key=lambda episode: episode.seed) == whole


def test_games_under_other_conditions_are_not_continued(tmp_path):
    with GameLog(tmp_path / "p.jsonl", header()) as log:
        play(HeuristicPlayer(POLICIES["bfs"]), on_finished=log.append)
    for name, value in {"identity": "other weights", "max_steps": 0, "symmetry": 2}.items():
        with pytest.raises(InputError, match=f"{name}.*another --report directory"):
            GameLog(tmp_path / "p.jsonl", header(**{name: value}))


TAMPERED = {
    "score": ({"score": 99}, "score 99: the moves give"),
    "end": ({"end": "board_full"}, "end board_full"),
    "early": ({"moves": ["UP"], "steps": 1, "end": "trapped"}, "not over after its 1 moves"),
    "capped": ({"moves": ["UP"], "steps": 1, "end": "step_cap"}, "stopped after 1 moves"),
    "longer": ({"moves": ["UP"] * 50}, "moves follow the game's end"),
    "apples": ({"apples": [[0, 0]]}, "apples"),
    "move": ({"moves": ["NORTH"]}, "not a game's log"),
    "format": ({"format": "mine"}, "'mine'"),
    "no seed": ({"seed": None}, "not a game's log"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_log_that_its_moves_do_not_bear_out_is_refused(tmp_path, name):
    changes, message = TAMPERED[name]
    (episode,) = play(HeuristicPlayer(POLICIES["greedy"]), seeds=[3])
    good = to_line(header(), episode)
    (tmp_path / "p.jsonl").write_text(f"{good}\n{json.dumps(json.loads(good) | changes)}\n")
    with pytest.raises(InputError, match=rf"p\.jsonl:2: .*{message}"):
        read_log(tmp_path / "p.jsonl", check=True)


@pytest.mark.parametrize("symmetry", range(NUM_SYMMETRIES))
def test_a_turned_board_is_played_by_the_same_rules(symmetry):
    """random-legal is blind to direction: what it sees is turned, and its moves are turned back."""
    assert all(transform_move(transform_move(move, symmetry), inverse(symmetry)) == move for move in Move)
    games = play(HeuristicPlayer(POLICIES["bfs-safe"]), symmetry=symmetry)
    assert all(game.num_legal == game.num_replies and game.end not in ("wall", "self", "reversal") for game in games)
    for game in games:
        assert read_back(game) == game


def read_back(episode):
    from snake_dist.evaluation.judging.game_log import _from_line

    return _from_line(json.loads(to_line(header(symmetry=1), replace(episode))))[1]
