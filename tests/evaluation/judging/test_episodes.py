from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, game_seeds, play_games
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.board import MODES, End, Move
from snake_dist.game.rules import SEED_RANGES, new_game, step
from snake_dist.heuristics.policies import POLICIES
from tests.support.planner import Planner

NEVER = 0


@dataclass
class ScriptedPlayer:
    """Answers by the number of moves made; repeats its last line. Remembers how many states it was asked."""

    script: list[str]
    asked: list[int] = field(default_factory=list)

    def replies(self, states):
        self.asked.append(len(states))
        return [self.script[min(state.steps, len(self.script) - 1)] for state in states]


def play_one(script, grid_size=10, mode="classic", max_steps=NEVER):
    (episode,) = play_games(ScriptedPlayer(script), Games(grid_size, mode, [5], max_steps), batch_size=4)
    return episode


def test_unparsable_reply_ends_the_game():
    episode = play_one(["Move: UP", "Move: UP", "up, I think"])
    assert (episode.end, episode.steps, episode.moves) == ("invalid_reply", 2, ("UP", "UP"))
    assert (episode.num_replies, episode.num_valid_format, episode.num_legal) == (3, 2, 2)
    assert episode.replies == ("Move: UP", "Move: UP", "up, I think")


def test_fatal_move_ends_the_game_by_the_rules():
    episode = play_one(["UP"])
    assert (episode.end, episode.steps) == ("wall", 5)  # from (5, 5) four moves reach the top row
    assert (episode.num_replies, episode.num_valid_format, episode.num_legal) == (5, 5, 4)


def test_reversal_is_counted_as_one():
    episode = play_one(["UP", "DOWN"], mode="wrap")  # back and forth until an apple makes a neck
    assert episode.end in ("reversal", "starved")
    back_and_forth = [
        play_games(ScriptedPlayer(["UP"] * 30 + ["DOWN"]), Games(10, "wrap", [seed], 31))[0] for seed in range(40)
    ]
    assert any(e.end == "reversal" and e.num_legal == e.steps - 1 == 30 for e in back_and_forth)


def test_step_cap_ends_a_living_game():
    episode = play_one(["LEFT"], mode="wrap", max_steps=7)
    assert (episode.end, episode.steps, episode.num_legal) == ("step_cap", 7, 7)


def test_an_end_by_the_rules_goes_before_the_step_cap():
    assert play_one(["UP"], max_steps=5).end == "wall"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("symmetry", [0, 6])
def test_several_moves_a_reply_make_the_game_that_single_moves_make(mode, symmetry):
    """The planner's moves are those of its policy up to the apple; what it says behind the apple is dropped."""
    several = play_games(Planner(), Games(6, mode, range(10), 30, symmetry), 4)
    single = play_games(HeuristicPlayer(POLICIES["bfs"]), Games(6, mode, range(10), 30, symmetry), 4)
    for one, other in zip(several, single, strict=True):
        for name in ("moves", "end", "score", "apples", "eaten_at", "num_legal", "steps"):
            assert getattr(one, name) == getattr(other, name), name
        assert sum(one.moves_made) == one.num_decisions == len(one.moves)
        assert len(one.moves_made) == one.num_replies == one.num_valid_format == len(one.prompts) < other.num_replies
        ends = set(accumulate(one.moves_made))
        assert {*one.eaten_at} <= ends  # asked again after each apple
        assert all(made == 4 or at in one.eaten_at or at == one.steps
                   for made, at in zip(one.moves_made, accumulate(one.moves_made), strict=True))  # fmt: skip
    assert {made for game in several for made in game.moves_made} == {1, 2, 3, 4}


def test_several_moves_end_at_a_fatal_one_and_at_the_cap():
    fatal = play_one(["Moves: U U", "", "Moves: U8 U9 U10 U11"])
    assert (fatal.end, fatal.moves_made, fatal.steps, fatal.num_legal) == ("wall", (2, 3), 5, 4)
    capped = play_one(["Moves: L L L L"], mode="wrap", max_steps=6)
    assert (capped.end, capped.moves_made, capped.num_legal) == ("step_cap", (4, 2), 6)
    silent = play_one(["Moves: U U", "", "Moves: U R", "", "Moves: X"])
    assert (silent.end, silent.moves_made, silent.num_decisions) == ("invalid_reply", (2, 2, 0), 5)
    assert (silent.num_replies, silent.num_valid_format, silent.num_legal) == (3, 2, 4)


@pytest.mark.parametrize("mode", MODES)
def test_batch_size_changes_nothing(mode):
    player = HeuristicPlayer(POLICIES["random-legal"])
    seeds = list(game_seeds(23, "dev"))
    alone = play_games(player, Games(5, mode, seeds, NEVER), batch_size=1)
    assert [episode.seed for episode in alone] == seeds
    for batch_size in (3, 50):
        assert play_games(player, Games(5, mode, seeds, NEVER), batch_size) == alone


def test_seeds_can_be_spread_and_merged():
    player = HeuristicPlayer(POLICIES["greedy"])
    whole = play_games(player, Games(6, "classic", range(20), 40), 8)
    parts = [play_games(player, Games(6, "classic", range(rank, 20, 3), 40), 2) for rank in range(3)]
    assert sorted((e for part in parts for e in part), key=lambda episode: episode.seed) == whole


def test_slots_are_refilled_at_once():
    player = ScriptedPlayer(["UP", "LEFT", "LEFT", "LEFT"])
    episodes = play_games(player, Games(4, "obstacles", range(30), NEVER), batch_size=7)
    waiting = [episode.num_replies for episode in episodes]
    assert len(set(waiting)) > 1  # games end at different times
    running: list[int] = []
    rounds = []
    while waiting or running:
        running, waiting = running + waiting[: 7 - len(running)], waiting[7 - len(running) :]
        rounds.append(len(running))
        running = [left - 1 for left in running if left > 1]
    assert player.asked == rounds


def test_moves_replay_the_game():
    for episode in play_games(HeuristicPlayer(POLICIES["bfs"]), Games(6, "obstacles", range(10), NEVER)):
        state = new_game(episode.grid_size, episode.seed, episode.mode)
        for move in episode.moves:
            state = step(state, Move(move))
        assert (state.score, state.steps, state.end) == (episode.score, episode.steps, End(episode.end))


def test_progress_reports_every_round():
    seen = []
    episodes = play_games(
        HeuristicPlayer(POLICIES["random-legal"]),
        Games(4, "classic", range(9), NEVER),
        4,
        on_progress=lambda *now: seen.append(now),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (9, sum(episode.num_replies for episode in episodes))


def test_no_seeds_no_episodes():
    assert play_games(ScriptedPlayer(["UP"]), Games(10, "classic", [], NEVER)) == []


def test_bad_board_is_named():
    with pytest.raises(InputError, match="'torus'"):
        play_games(ScriptedPlayer(["UP"]), Games(10, "torus", [1], NEVER))


def test_game_seeds_come_from_the_published_range():
    assert list(game_seeds(3)) == [1_100_000_000, 1_100_000_001, 1_100_000_002]
    assert all(seed not in SEED_RANGES["train"] for name in ("dev", "test") for seed in game_seeds(100, name))
    assert set(game_seeds(100, "dev")).isdisjoint(game_seeds(100))
    with pytest.raises(InputError, match=r"'exam'.*train, dev, test"):
        game_seeds(3, "exam")
    with pytest.raises(InputError, match="100000001"):
        game_seeds(100_000_001)
