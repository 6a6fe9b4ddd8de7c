"""Show where and why logged games were lost, and which claims of the player were false.

python launcher/analyse.py --games REPORT/games/adapter.jsonl --policy hamiltonian-shortcuts --adapter DIR
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.analyse import main

if __name__ == "__main__":
    run_launcher(main)
