"""A human at a real (pseudo) terminal, and human logs in a comparison."""

from __future__ import annotations

import os
import pty
import subprocess
import time

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import GameLog, Header, read_log
from snake_dist.evaluation.judging.human_logs import read_human_games
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.evaluation.players.terminal import draw
from snake_dist.game.rules import SEED_RANGES, new_game
from snake_dist.heuristics.policies import POLICIES
from tests.support.processes import environment, launcher

SEEDS = SEED_RANGES["test"][:2]
GAMES = Games(5, "classic", SEEDS, 0)
ARROWS = {"UP": "\x1b[A", "DOWN": "\x1b[B", "LEFT": "\x1b[D", "RIGHT": "\x1b[C"}
COMMAND = [*launcher("play"), "--player", "human", "--grid-size", "5", "--games", "2", "--no-ladder", "--report"]


def at_a_terminal(report, *flags, keys, timeout_s=60):
    """Run play.py with a pseudo terminal as its input and send the keys once it draws; returns what it said."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(report), *flags],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        env=environment(),
    )
    os.close(theirs)
    assert process.stdout is not None
    first = process.stdout.read(1)  # it has drawn
    os.write(ours, keys.encode())
    said = first + process.communicate(timeout=timeout_s)[0]
    os.close(ours)
    return process.returncode, said.decode()


def test_a_human_plays_by_the_same_rules_and_may_stop(tmp_path):
    greedy = play_games(HeuristicPlayer(POLICIES["greedy"]), GAMES)
    keys = "".join(ARROWS[move] for move in greedy[0].moves) + "xq"
    returncode, said = at_a_terminal(tmp_path, keys=keys)
    assert returncode == 0, said
    assert f"last game: {greedy[0].score} apples, trapped" in said
    ((header, episode),) = read_log(tmp_path / "games/human-terminal-turn-based.jsonl", check=True)
    assert (header.player, header.kind, episode) == ("human: terminal, turn-based", "human", greedy[0])
    assert "human: terminal" in (tmp_path / "report.html").read_text()


def test_with_a_pace_the_snake_goes_on_by_itself(tmp_path):
    started = time.monotonic()
    returncode, said = at_a_terminal(tmp_path, "--human-pace", "60", "--games", "1", keys="d")
    assert returncode == 0, said
    assert time.monotonic() - started < 60
    ((_, episode),) = read_log(tmp_path / "games/human-terminal-60-ms-a-move.jsonl", check=True)
    assert (episode.end, set(episode.moves)) == ("wall", {"RIGHT"})
    assert all(55 <= ms < 1000 for ms in episode.ms[1:])


def test_the_drawn_board():
    assert draw(new_game(4, 1)).splitlines()[1:] == [
        "+---------+",
        "| . . . . |",
        "| . . @ . |",
        "| . . . . |",
        "| . . * . |",
        "+---------+",
    ]


def log_of(path, kind="human", identity="browser, turn-based", policy="greedy", games=GAMES):
    with GameLog(path, Header("human", kind, identity, games.grid_size, games.mode, games.max_steps)) as log:
        play_games(HeuristicPlayer(POLICIES[policy]), games, on_finished=log.append)
    return path


def test_human_logs_are_read_by_way_of_playing_and_the_first_game_of_a_seed_counts(tmp_path):
    paths = [log_of(tmp_path / "a.jsonl"), log_of(tmp_path / "b.jsonl", policy="bfs-safe")]
    paths.append(log_of(tmp_path / "c.jsonl", identity="browser, 120 ms a move"))
    found = read_human_games(paths, GAMES)
    assert {name: len(games) for name, (_, games) in found.items()} == {
        "human: browser, turn-based": 2,
        "human: browser, 120 ms a move": 2,
    }
    greedy = play_games(HeuristicPlayer(POLICIES["greedy"]), GAMES)
    assert sorted(found["human: browser, turn-based"][1], key=lambda episode: episode.seed) == greedy


OTHERS = {
    "not by a human": {"kind": "model"},
    "grid_size 6": {"games": Games(6, "classic", SEEDS, 0)},
    "max_steps 3": {"games": Games(5, "classic", SEEDS, 3)},
    "seed 1000000000": {"games": Games(5, "classic", SEED_RANGES["dev"][:1], 0)},
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_logs_are_refused(tmp_path, message):
    path = log_of(tmp_path / "a.jsonl", **OTHERS[message])
    with pytest.raises(InputError, match=rf"a\.jsonl:1: .*{message}"):
        read_human_games([path], GAMES)
