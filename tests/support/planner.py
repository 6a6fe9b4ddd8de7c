"""A player whose replies decide on several moves."""

from __future__ import annotations

from dataclasses import dataclass

from snake_dist.evaluation.players.protocol import Answer
from snake_dist.game.rules import step
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_prompt


@dataclass
class Planner:
    """A policy that says its next `ahead` moves at once; where they eat, it babbles on behind the apple."""

    policy: str = "bfs"
    ahead: int = 4

    def replies(self, states):
        return [answer.text for answer in self.answers(states)]

    def answers(self, states):
        return [Answer(text := self._say(state), render_prompt(state, "compact"), len(text)) for state in states]

    def _say(self, state):
        score, words = state.score, []
        while len(words) < self.ahead:
            move = POLICIES[self.policy](state)
            words.append(move.value[0])
            state = step(state, move)
            if state.score > score or state.end is not None:
                words += ["U", "L", "D"]
                break
        return f"Turn {state.steps}. Moves: {' '.join(words)}"
