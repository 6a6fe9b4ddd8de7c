"""Replies per second of the evaluation harness against a loop that asks `generate` for one position at a time.

python benchmarks/play_speed.py
python benchmarks/play_speed.py --adapter RUN/lora_adapters/model_artifacts

The same model, positions and greedy decoding. Contenders take turns; medians over the rounds, and their ratios.
Seconds are processor time of one thread, or wall clock where ranks work together. Without --adapter, a random LoRA
adapter on smollm2-135m babbles as many tokens as a reply of the plan style has.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from snake_dist.game.board import State
from snake_dist.game.rules import new_game, step
from snake_dist.heuristics.policies import bfs_safe

RANK, NEW_TOKENS, STEPS = 16, 35, 23


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, help="a saved adapter; default: a random one")
    parser.add_argument("--positions", type=int, default=200, help="asked at once by the harness: games at a time")
    parser.add_argument("--single", type=int, default=4, help="positions that the loop is asked in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="wall clock with this many processes")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    player = load(arguments.adapter)
    states = [position(seed) for seed in range(arguments.positions)]
    contenders: dict[str, Callable[[], int]] = {
        "one position at a time, generate": partial(one_at_a_time, player, states[: arguments.single]),
        "batches of 64, padded, generate": partial(padded, player, states),
        "slots": lambda: len(player.answers(states)),
    }
    player.answers(states[:2])  # what is found out about a model once
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, answer in contenders.items():
            started = time.thread_time()
            num_replies = answer()
            rates[name].append(num_replies / (time.thread_time() - started))
    first = median(rates["one position at a time, generate"])
    for name, found in rates.items():
        print(f"{name:34} {median(found):8.2f} replies/s of own time {median(found) / first:7.1f} times")
    clocks: dict[int, list[float]] = {size: [] for size in arguments.ranks}
    for _ in range(arguments.rounds if arguments.ranks else 0):
        for size in arguments.ranks:
            clocks[size].append(arguments.positions / on_ranks(size, arguments.adapter, arguments.positions))
    for size, found in clocks.items():
        ratio = median(found) / median(clocks[arguments.ranks[0]])
        print(
            f"slots, {size} ranks of one thread       {median(found):8.2f} replies/s of wall clock {ratio:6.2f} times"
        )
    print(json.dumps({"rates": rates, "clocks": clocks}))


def load(adapter: Path | None) -> Any:
    """The player; a random adapter is the same in every process."""
    import torch
    from peft import LoraConfig, get_peft_model

    from snake_dist.evaluation.players.language_model import LanguageModelPlayer
    from snake_dist.evaluation.players.loading import BATCH_SIZE, load_player
    from snake_dist.model import base

    if adapter is not None:
        return load_player(adapter)
    location = base.find_base(base.ModelConfig())
    torch.manual_seed(0)
    model = base.load_base(location, base.choose_dtype("auto", {}))
    config = LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    peft = get_peft_model(model, config, autocast_adapter_dtype=False).eval()
    return LanguageModelPlayer(peft, base.load_tokenizer(location), "compact", NEW_TOKENS, BATCH_SIZE["cpu"])


def position(seed: int) -> State:
    """A running position of a short snake."""
    state = new_game(10, seed)
    for _ in range(STEPS):
        state = step(state, bfs_safe(state))
    return state


def one_at_a_time(player: Any, states: list[State]) -> int:
    """What a simple harness does."""
    return padded(player, states, 1)


def padded(player: Any, states: list[State], rows: int = 64) -> int:
    from snake_dist.data.templates import encode_prompt
    from snake_dist.evaluation.players.language_model import greedy_decode
    from snake_dist.styles.catalog import render_prompt

    prompts = [encode_prompt(player.tokenizer, render_prompt(state, player.style)) for state in states]
    for start in range(0, len(prompts), rows):
        greedy_decode(player.model, player.tokenizer, prompts[start : start + rows], player.max_new_tokens)
    return len(states)


def on_ranks(size: int, adapter: Path | None, num_positions: int) -> float:
    from tests.support.ranks import run_on_ranks

    return max(run_on_ranks(timed_rank, size, adapter, num_positions))


def timed_rank(adapter: Path | None, num_positions: int) -> float:
    """Seconds that this rank waits for all answers."""
    import torch

    from snake_dist.cluster.world import agree, gather, start_process_group, world_from_environment
    from snake_dist.evaluation.judging.spread import Ranks

    world = world_from_environment()
    start_process_group(world)
    ranks = Ranks(world.rank, world.size, partial(gather, world=world), partial(agree, world))
    torch.set_num_threads(1)
    player = ranks.spread(load(adapter))
    states = [position(seed) for seed in range(num_positions)]
    player.replies(states[: 2 * world.size])
    started = time.perf_counter()
    player.replies(states)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of this checkout only the package is installed
    main()
