"""Count what real ranks send each other in a training step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import snake_dist as sd


def messages_of(configs: list[sd.RunConfig]) -> list[dict[str, tuple[int, int]]]:
    """`step_messages` of several runs, one after the other on the same ranks."""
    return [step_messages(config) for config in configs]


def step_messages(config: sd.RunConfig) -> dict[str, tuple[int, int]]:
    """{kind of collective: (bytes of the whole messages, calls)} of the second optimizer step, on this rank.

    The first step of ZeRO-3 records the order of the modules; from the second on it prefetches by it.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.preparation import prepare
    from snake_dist.run.training import load_model
    from snake_dist.training.loop import training_step
    from snake_dist.training.trainer import Trainer
    from snake_dist.zero.engine import start_engine

    totals: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(operation)
            if name.startswith("c10d."):
                sizes = [t.numel() * t.element_size() for t in tree_iter(args) if isinstance(t, torch.Tensor)]
                # The whole message is the largest tensor that the call is given, or the parts together.
                totals[name.split(".")[1]] += max(max(sizes), sum(sizes) - min(sizes))
                calls[name.split(".")[1]] += 1
            return operation(*args, **(kwargs or {}))

    run = prepare(config, world_from_environment())
    model, collate = load_model(run)
    engine = start_engine(model, run.ds_config)
    engine.train()
    trainer = Trainer(engine, run.data.dataset, run.stream, run.share, collate, run.config.training)
    for step in range(2):
        totals.clear()
        calls.clear()
        ids = run.stream.step_examples(step)
        with Count():
            training_step(trainer, ids, step=step)
    engine.destroy()
    return {name: (totals[name], calls[name]) for name in totals}
