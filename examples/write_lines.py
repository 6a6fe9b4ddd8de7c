"""Write training lines of your own: python examples/write_lines.py mine.jsonl

A line has a prompt and a completion. Here a greedy player answers the positions of ten games.
"""

import json
import sys
from pathlib import Path

import snake_dist as sd
from snake_dist.heuristics.policies import POLICIES
from snake_dist.styles.catalog import render_completion, render_prompt

lines = []
for seed in range(10):
    state = sd.new_game(grid_size=6, seed=seed)
    for _ in range(12):
        if not sd.legal_moves(state):
            break
        move = POLICIES["greedy"](state)
        completion = render_completion(state, move, "compact", "greedy")
        lines.append(json.dumps({"prompt": render_prompt(state, "compact"), "completion": completion}))
        state = sd.step(state, move)
Path(sys.argv[1]).write_text("\n".join(lines) + "\n")
print(f"{len(lines)} lines: snake-dist train --data {sys.argv[1]}")
