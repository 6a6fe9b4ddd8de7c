"""Train a grid of settings, one run each, and report which setting plays better: docs/ablation.md.

python launcher/ablate.py launcher/recipes/ablate/presets.yaml
python launcher/ablate.py launcher/recipes/ablate/presets.yaml --slurm
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.ablate import main

if __name__ == "__main__":
    run_launcher(main)
