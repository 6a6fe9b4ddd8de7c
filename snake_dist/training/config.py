"""The flags of the training: length, batch sizes, optimizer, evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from snake_dist.errors import InputError, check_at_least


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch sizes, optimizer and evaluations of the training."""

    epochs: float = 1.0
    """Number of passes over the training examples; may be a fraction."""
    max_steps: int | None = None
    """Stop after this many optimizer steps instead of after --epochs."""
    max_tokens: int | None = None
    """Train on at most this many tokens, prompts and completions over all ranks, instead of --epochs; the last step may
    have fewer examples."""
    global_batch_size: int = 8
    """Examples per optimizer step over all ranks, whatever their number."""
    micro_batch_size: int = 4
    """Examples per forward pass and rank, at most."""
    learning_rate: float = 1e-3
    """Peak learning rate. 1e-3 suits models of about 0.1B parameters; try 2e-4 for 7B and more."""
    warmup_share: float = 0.05
    """The learning rate rises over this share of the steps."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Clip gradients to this global 2-norm; 0: do not clip."""
    seed: int = 0
    """Seed of the order of examples, dropout, the adapter's initialization and generated data."""
    deterministic: bool = False
    """Use deterministic kernels only: on a GPU the same run then ends with the same bits, and a step may take longer.
    On CPUs it does in any case."""
    log_every: int = 1
    """Log metrics every this many steps; logging waits for the device."""
    eval_every: int = 50
    """Evaluate on the held-out examples every this many steps; 0: only at the end."""


def check_training_config(config: TrainingConfig) -> None:
    """Raise InputError for a value that no run can have."""
    check_at_least(config, epochs=0, max_steps=1, max_tokens=1, global_batch_size=1, micro_batch_size=1)
    check_at_least(config, learning_rate=0, warmup_share=0, weight_decay=0, max_grad_norm=0)
    if config.learning_rate == 0:
        raise InputError("--learning-rate 0: nothing would be trained: greater than 0")
    check_at_least(config, seed=0, log_every=1, eval_every=0)
    if config.max_steps is not None and config.max_tokens is not None:
        raise InputError(f"--max-steps {config.max_steps}, --max-tokens {config.max_tokens}: only one of them")
    if config.max_steps is None and config.max_tokens is None and config.epochs == 0:
        raise InputError("--epochs 0: must be greater than 0")
    if config.warmup_share > 1:
        raise InputError(f"--warmup-share {config.warmup_share}: at most 1")
