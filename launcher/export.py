"""Merge an adapter into its base model, for programs that only load whole models.

python launcher/export.py --adapter runs/mine/lora_adapters/model_artifacts --merge merged
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.export import main

if __name__ == "__main__":
    run_launcher(main)
