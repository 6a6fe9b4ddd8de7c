"""The console script `snake-dist VERB ...`, as `python -m snake_dist` too, which launchers of ranks start:

torchrun --nproc-per-node 2 -m snake_dist train --ds zero2
deepspeed --module snake_dist train --ds zero2
"""

from __future__ import annotations

import sys
from importlib import import_module

from snake_dist.cli import run_launcher

VERBS = {
    "train": "fine-tune a model, save the adapter, play with it",
    "play": "games of heuristics, models, adapters and humans, with a report",
    "generate-data": "training data from games of a heuristic",
    "plan": "what a run will need: memory, messages, time",
    "submit": "a run on Slurm, on this machine or on several hosts",
    "ablate": "a grid of settings, and which of them play better",
    "climb": "training in stages, by a recipe",
    "correct": "a player's own games with a teacher's answers",
    "analyse": "where and why logged games were lost",
    "export": "an adapter merged into its base model",
    "doctor": "what works on this machine, and what mends the rest",
}
"""Name of each verb -> what it is for. Its module in `verbs/` has underscores for dashes."""


def main() -> None:
    """Run the verb that the command line names; exit with 2, in one line, for another one."""
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]  # deepspeed puts it first
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        print("usage: snake-dist VERB [flags]; snake-dist VERB --help lists the flags\n")
        print("\n".join(f"  {name:<14} {purpose}" for name, purpose in VERBS.items()))
        return
    if verb not in VERBS:
        print(f"snake-dist: error: {verb!r}: no verb; choose from {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"snake-dist {verb}", *words[1:]]  # the program's name in help and errors
    run_launcher(import_module(f"snake_dist.verbs.{verb.replace('-', '_')}").main)


if __name__ == "__main__":
    main()
