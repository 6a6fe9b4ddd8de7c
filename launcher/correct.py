"""Label a player's own games with a teacher's answers: training data for its next round.

python launcher/play.py --player adapter DIR --seed-range train --games 100 --report REPORT --no-ladder
python launcher/correct.py --games REPORT/games/adapter.jsonl --policy bfs-safe --style compact --output DATA
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.correct import main

if __name__ == "__main__":
    run_launcher(main)
