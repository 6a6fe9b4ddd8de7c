"""Run a job on Slurm, on this machine (--local) or on the hosts of a file (--hostfile). train.py's flags follow --.

python launcher/submit.py --job-name NAME --nodes 2 --gpus-per-node 4 --time 04:00:00 -- --ds ds_configs/zero2.json
python launcher/submit.py --recipe slurm/recipes/single_node.yaml --dry-run
python launcher/submit.py status JOB_OR_DIRECTORY ...
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.submit import main

if __name__ == "__main__":
    run_launcher(main)
