"""What the processes of scaling.py run: the package's own way from flags to steps, with clocks and counters around."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from benchmarks.scaling_clocks import Clocks, memory_mib, reset_peak
from benchmarks.scaling_steps import collectives, steps


def start(argv: list[str]) -> dict[str, Any]:
    """A start up to the examples of three steps, without the model: its seconds and memory, before and after."""
    import deepspeed  # noqa: F401

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.data.tokenization import is_among
    from snake_dist.run.board import find_board
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.data import prepare_data
    from snake_dist.run.preparation import prepare

    config, world = parse_run_config(argv), world_from_environment()
    reset_peak()
    began, before = time.perf_counter(), memory_mib()
    run = prepare(config, world)
    everything = time.perf_counter() - began
    again = []
    for _ in range(5):
        began = time.perf_counter()
        data = prepare_data(config, world, find_board(config), run.tokenizer, run.shape.max_positions)
        again.append(time.perf_counter() - began)
    began = time.perf_counter()
    for step in range(3):
        for micro in run.share.micro_batches(run.stream.step_examples(step), run.data.dataset.lengths):
            for example in micro:
                run.data.dataset[example]
    steps_s = (time.perf_counter() - began) / 3
    is_among(1, data.dataset.prompt_hashes)
    after = memory_mib()
    return {
        "lines": len(data.dataset),
        "prepare_s": everything,
        "data_s": median(again),
        "step_data_s": steps_s,
        "own_mib": after["own"] - before["own"],
        "mapped_mib": after["mapped"] - before["mapped"],
        "peak_mib": after["peak"] - before["own"] - before["mapped"],
    }


def tokenize_speed(argv: list[str]) -> dict[str, Any]:
    """Seconds of tokenizing files for the first time, which a run's start does."""
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.data import dataset
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare

    clocks = Clocks()
    dataset.tokenize = clocks.around("tokenize", dataset.tokenize)
    run = prepare(parse_run_config(argv), world_from_environment())
    return {
        "seconds": clocks.seconds["tokenize"],
        "lines": len(run.data.dataset),
        "cache": str(run.data.dataset.directory),
        "tokens": run.data.dataset.meta["num_tokens"],
        **memory_mib(),
    }


def logits(vocabulary: int, num_examples: int, length: int, trained: int, plainly: bool) -> dict[str, float]:
    """Peak MiB above the model of one forward and backward pass over `num_examples` packed examples of `length`."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from snake_dist.data.packing import Example, pack
    from snake_dist.model.packing_proof import use_packed_attention
    from snake_dist.training.loss import forward_trained, loss_sum

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=16384, **shape)).bfloat16()
    model.requires_grad_(False)
    use_packed_attention(model)
    for parameter in model.model.layers.parameters():
        parameter.requires_grad_(True)
    generator = np.random.default_rng(0)
    batch = pack([Example(generator.integers(1, 256, length), length - trained) for _ in range(num_examples)])

    def once() -> None:
        if plainly:  # what a model's own loss does: every logit, in fp32
            every_logit = model(**batch.inputs, use_cache=False).logits[0].float()
            labels = torch.full((len(every_logit),), -100)
            labels[batch.columns_C] = batch.labels_K
            torch.nn.functional.cross_entropy(every_logit, labels, reduction="sum").backward()
        else:
            logits_KV, labels_K, _ = forward_trained(model, batch)
            loss_sum(logits_KV, labels_K).backward()
        model.zero_grad()

    with torch.no_grad():
        model.model(**pack([Example(np.arange(1, 40), 1)] * 2).inputs, use_cache=False)
    reset_peak()
    before = memory_mib()
    once()
    return {"peak_mib": memory_mib()["peak"] - before["own"] - before["mapped"]}


TASKS: dict[str, Callable[..., Any]] = {
    "collectives": collectives,
    "steps": partial(steps, wait_for_turn=False),
    "steps in turns": partial(steps, wait_for_turn=True),
    "start": start,
    "tokenize": tokenize_speed,
    "logits": logits,
}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    outcome = TASKS[sys.argv[1]](*json.loads(sys.argv[2]))
    print("RESULT " + json.dumps(outcome), flush=True)
