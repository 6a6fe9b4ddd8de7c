"""Play games of a heuristic on all cores and write them as training data.

python launcher/generate_data.py --policy bfs-safe --grid-size 10 --games 200 --style compact --output DIR
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.generate_data import main

if __name__ == "__main__":
    run_launcher(main)
