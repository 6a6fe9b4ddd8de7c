"""Fine-tune a language model with LoRA until it plays Snake well, and prove it by playing.

import snake_dist as sd

summary = sd.train(sd.RunConfig(training=sd.TrainingConfig(max_steps=20)), num_ranks=2)
player = sd.load_player(summary["adapter_dir"])
print(player.replies([sd.new_game(grid_size=10, seed=sd.SEED_RANGES["test"][0])]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snake_dist.data.dataset import DataConfig as DataConfig
    from snake_dist.evaluation.judging.match import PlayConfig as PlayConfig
    from snake_dist.evaluation.players.loading import load_player as load_player
    from snake_dist.game.rules import SEED_RANGES as SEED_RANGES
    from snake_dist.game.rules import legal_moves as legal_moves
    from snake_dist.game.rules import new_game as new_game
    from snake_dist.game.rules import step as step
    from snake_dist.model.adapters import AdapterConfig as AdapterConfig
    from snake_dist.model.base import ModelConfig as ModelConfig
    from snake_dist.run.config import OutputConfig as OutputConfig
    from snake_dist.run.config import RunConfig as RunConfig
    from snake_dist.run.finetune import train as train
    from snake_dist.styles.replies import parse_reply as parse_reply
    from snake_dist.training.config import TrainingConfig as TrainingConfig
    from snake_dist.training.wandb_log import WandbConfig as WandbConfig

_HOMES = {
    "AdapterConfig": "snake_dist.model.adapters",
    "DataConfig": "snake_dist.data.dataset",
    "ModelConfig": "snake_dist.model.base",
    "OutputConfig": "snake_dist.run.config",
    "PlayConfig": "snake_dist.evaluation.judging.match",
    "RunConfig": "snake_dist.run.config",
    "SEED_RANGES": "snake_dist.game.rules",
    "TrainingConfig": "snake_dist.training.config",
    "WandbConfig": "snake_dist.training.wandb_log",
    "legal_moves": "snake_dist.game.rules",
    "load_player": "snake_dist.evaluation.players.loading",
    "new_game": "snake_dist.game.rules",
    "parse_reply": "snake_dist.styles.replies",
    "step": "snake_dist.game.rules",
    "train": "snake_dist.run.finetune",
}

"""Public name -> its module. The imports above give editors and type checkers the same names."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import snake_dist` itself imports nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'snake_dist' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
