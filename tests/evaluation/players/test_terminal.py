"""A human at a real (pseudo) terminal."""

from __future__ import annotations

import os
import pty
import subprocess

from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import read_log
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.evaluation.players.terminal import draw
from snake_dist.game.rules import SEED_RANGES, new_game
from snake_dist.heuristics.policies import POLICIES
from tests.support.processes import TIMEOUT_S, environment, launcher

SEEDS = SEED_RANGES["test"][:2]
GAMES = Games(5, "classic", SEEDS, 0)
ARROWS = {"UP": "\x1b[A", "DOWN": "\x1b[B", "LEFT": "\x1b[D", "RIGHT": "\x1b[C"}
COMMAND = [*launcher("play"), "--player", "human", "--grid-size", "5", "--games", "2", "--no-ladder", "--report"]


def at_a_terminal(report, *flags, keys):
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
    said = first + process.communicate(timeout=TIMEOUT_S)[0]
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
    returncode, said = at_a_terminal(tmp_path, "--human-pace", "60", "--games", "1", keys="d")
    assert returncode == 0, said
    ((_, episode),) = read_log(tmp_path / "games/human-terminal-60-ms-a-move.jsonl", check=True)
    assert (episode.end, set(episode.moves)) == ("wall", {"RIGHT"})
    assert all(ms >= 55 for ms in episode.ms[1:])


def test_the_drawn_board():
    assert draw(new_game(4, 1)).splitlines()[1:] == [
        "+---------+",
        "| . . . . |",
        "| . . @ . |",
        "| . . . . |",
        "| . . * . |",
        "+---------+",
    ]
