"""Plan a run before it is queued: memory per rank and ZeRO stage, messages, time. Planning loads no weights.

python launcher/plan.py --base-model smollm2-135m --adapter lora --gpus 8 --gpu-memory 24GiB
python launcher/plan.py --base-model ./llama-8b --gpus 16 --gpus-per-node 8 --write-ds ds.json --examples 200000
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.plan import main

if __name__ == "__main__":
    run_launcher(main)
