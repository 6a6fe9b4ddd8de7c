"""Play games with heuristics, base models, adapters beside their base, or humans, and report them.

python launcher/play.py --player bfs-safe greedy --grid-size 10 --games 500 --seed-range dev
python launcher/play.py --player adapter DIR --games 200 --report DIR
torchrun --nproc-per-node 2 launcher/play.py --player adapter DIR --games 200 --report DIR
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.play import main

if __name__ == "__main__":
    run_launcher(main)
