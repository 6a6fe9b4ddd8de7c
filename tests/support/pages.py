"""A report with a player that reasons, not always rightly, for the tests of the page."""

from __future__ import annotations

from pathlib import Path

from snake_dist.evaluation.judging.comparison import judge
from snake_dist.evaluation.judging.episodes import Games
from snake_dist.evaluation.judging.state_bank import build_bank
from snake_dist.evaluation.players.entrants import Entrant, PlayerOptions, find_entrants, ladder_entrants
from snake_dist.evaluation.players.protocol import Answer
from snake_dist.evaluation.report.numbers import write_report
from snake_dist.evaluation.report.page import write_page
from snake_dist.game.rules import SEED_RANGES
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_completion, render_prompt
from tests.support.planner import Planner

HOSTILE = "</script><script>document.title = 'taken over'</script>"


class Reasoner:
    """bfs in compact completions; from length 4 on it says that every way is open, from 7 on it goes to the left."""

    def replies(self, states):
        return [answer.text for answer in self.answers(states)]

    def answers(self, states):
        return [Answer(self._say(state), render_prompt(state, "compact"), 27) for state in states]

    def _say(self, state):
        move = POLICIES["bfs"](state)
        text = render_completion(state, move, "compact", "bfs")
        if len(state.body) >= 4:
            text = f"{text.split('. ok')[0]}. ok U D L R.{text.split('.', 2)[2]}"
        return text if len(state.body) < 7 else f"{HOSTILE} {text.rsplit(' ', 1)[0]} LEFT"


def games(mode="classic", grid_size=6, max_steps=0, num_games=5):
    return Games(grid_size, mode, SEED_RANGES["test"][:num_games], max_steps)


def write_example(directory: Path, runs: dict[str, Path] | None = None, **options) -> Path:
    """The page of the reasoner, as an adapter beside a base that says nothing, and the ladder."""
    played = games(**options)
    silent = type("Silent", (), {"replies": lambda _, states: ["I would rather not."] * len(states)})
    entrants = [
        Entrant("base", "model", "silent", silent),
        Entrant("adapter", "model", "reasoner", Reasoner, "base"),
        Entrant("planner", "model", "planner", Planner),
        *find_entrants(["greedy"], PlayerOptions("", "compact"))[0],
    ]
    entrants += ladder_entrants(entrants)
    bank = build_bank(played.grid_size, played.mode, 24)
    write_report(directory, judge(entrants, played, bank, directory)[0], played.settings())
    return write_page(directory, runs)
