"""Fine-tune a language model with LoRA until it plays Snake well, and prove it by playing.

import snake_dist as sd

summary = sd.train(sd.RunConfig(training=sd.TrainingConfig(max_steps=20)), num_ranks=2)
player = sd.load_player(summary["adapter_dir"])
print(player.replies([sd.new_game(grid_size=10, seed=sd.SEED_RANGES["test"][0])]))
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "AdapterConfig": "snake_dist.model.adapters",
    "DataConfig": "snake_dist.data.dataset",
    "ModelConfig": "snake_dist.model.base",
    "OutputConfig": "snake_dist.run.config",
    "PlayConfig": "snake_dist.evaluation.judging.match",
    "RunConfig": "snake_dist.run.config",
    "SEED_RANGES": "snake_dist.game.rules",
    "TrainingConfig": "snake_dist.training.loop",
    "WandbConfig": "snake_dist.training.wandb_log",
    "legal_moves": "snake_dist.game.rules",
    "load_player": "snake_dist.evaluation.players.loading",
    "new_game": "snake_dist.game.rules",
    "parse_reply": "snake_dist.styles.replies",
    "step": "snake_dist.game.rules",
    "train": "snake_dist.run.finetune",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use: `import snake_dist` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'snake_dist' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
