"""Does an adapter in style cycle know more than the positions its games come to?

python benchmarks/planning.py --adapter RUN/lora_adapters/model_artifacts

All games begin in the middle of the board with a snake of length 1. Here snakes of other lengths lie along the cycle,
their head anywhere, the apple anywhere: as they were laid, and after 20 moves of the teacher. Positions that the
adapter was trained on are left out. A reply is right if it makes the teacher's moves, to the last one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from snake_dist.evaluation.judging.intervals import wilson_interval
from snake_dist.evaluation.players.loading import load_player
from snake_dist.evaluation.players.trained_prompts import adapter_prompts
from snake_dist.game.board import State
from snake_dist.game.rules import legal_moves, new_game, step
from snake_dist.heuristics.hamiltonian import cycle_slots, shortcut_move, shortcut_path, view_cycle
from snake_dist.styles.catalog import check_claims
from snake_dist.styles.replies import parse_moves

LENGTHS = (1, 2, 5, 10, 20, 40, 60, 80)
FIRST_SEED = 700_000_000
"""Where an apple goes after it was eaten is drawn from here on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--grid-size", type=int, default=10)
    parser.add_argument("--positions", type=int, default=100, help="of each length and kind")
    arguments = parser.parse_args()

    player, trained = load_player(arguments.adapter), adapter_prompts(arguments.adapter)
    print("| snake length | positions | legal moves | as the teacher | a false statement |\n" + "|---" * 5 + "|")
    for num_moves, kind in ((0, "laid along the cycle"), (20, "20 moves later")):
        for length in (length for length in LENGTHS if length < arguments.grid_size**2):
            states = list(islice(positions(arguments.grid_size, length, num_moves), arguments.positions))
            new = [state for state in states if trained is None or not trained.hold(state)]
            print(f"| {length}, {kind} | {len(new)} | {' | '.join(judged(new, player.replies(new)))} |", flush=True)


def positions(grid_size: int, length: int, num_moves: int) -> Iterator[State]:
    """Few or none where a snake of this length fills the board in this many moves."""
    slots, count = cycle_slots(grid_size, "classic")
    cells = {slot: cell for cell, slot in slots.items()}
    rng = random.Random(f"{grid_size} {length} {num_moves}")
    for seed in range(FIRST_SEED, FIRST_SEED + 10_000):
        head = rng.randrange(count)
        body = tuple(cells[(head - i) % count] for i in range(length))
        apple = rng.choice(sorted(slots.keys() - set(body)))
        start = new_game(grid_size, seed)
        state = State(grid_size, "classic", body, apple, start.obstacles, start.rng, score=length - 1)
        for _ in range(num_moves):
            move = shortcut_move(state)
            assert move is not None
            state = step(state, move)
            if state.end is not None:
                break
        if state.end is None and view_cycle(state) is not None:
            yield state


def judged(states: Sequence[State], replies: Sequence[str]) -> list[str]:
    """Shares, with Wilson's intervals: legal first moves, all moves the teacher's, something false said."""
    legal = right = false = 0
    for state, reply in zip(states, replies, strict=True):
        moves = parse_moves(reply) or ()
        legal += bool(moves) and moves[0] in legal_moves(state)
        taught = [move for move, _ in shortcut_path(state)]
        right += bool(moves) and list(moves) == taught[: len(moves)]
        false += any(not claim.true for claim in check_claims(state, reply))
    return [share(number, len(states)) for number in (legal, right, false)]


def share(number: int, total: int) -> str:
    low, high = wilson_interval(number, total) or (0.0, 1.0)
    return f"{100 * number / total:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" if total else "-"


if __name__ == "__main__":
    main()
