"""Train from Python, then ask the adapter for a move: python examples/train_and_ask.py --max-steps 20 --play-games 4

The flags are those of `snake-dist train`; sd.RunConfig(...) takes the same values without a command line.
"""

import sys

import snake_dist as sd
from snake_dist.run.config import parse_run_config

if __name__ == "__main__":  # the ranks import this file
    summary = sd.train(parse_run_config(sys.argv[1:]), num_ranks=1)
    player = sd.load_player(summary["adapter_dir"])
    state = sd.new_game(grid_size=6, seed=sd.SEED_RANGES["test"][0])
    [reply] = player.replies([state])
    print(f"{reply!r} means {sd.parse_reply(reply)}; legal: {[move.value for move in sd.legal_moves(state)]}")
    print(summary["adapter_dir"])
