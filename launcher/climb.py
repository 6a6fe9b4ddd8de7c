"""Train in stages, each from the last adapter, on generated and corrected games, and judge each stage by playing.

python launcher/climb.py --recipe launcher/recipes/climb/fill-10x10.yaml --output runs/fill-10x10
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.climb import main

if __name__ == "__main__":
    run_launcher(main)
