"""Fine-tune a language model on Snake and judge it by playing; every rank runs this program.

deepspeed launcher/train.py --ds ds_configs/zero2.json
torchrun --nproc-per-node 2 launcher/train.py --ds ds_configs/zero2.json
python launcher/train.py --max-steps 20 --play-games 4
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.train import main

if __name__ == "__main__":
    run_launcher(main)
