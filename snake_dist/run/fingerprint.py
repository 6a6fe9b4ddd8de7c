"""What decides the numbers of a run: a checkpoint resumes only with the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from snake_dist.data.templates import described_template
from snake_dist.data.tokenization import tokenizer_fingerprint
from snake_dist.model import adapters
from snake_dist.run.config import RunConfig
from snake_dist.run.data import RunData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def fingerprint_of(
    config: RunConfig,
    data: RunData,
    tokenizer: PreTrainedTokenizerBase,
    *,
    base_revision: str,
    dtype: str,
    num_steps: int,
    optimizer: dict[str, Any],
) -> dict[str, Any]:
    """Return everything that decides the numbers of a run, by the flag that sets it where one does. `optimizer`: that
    of the filled DeepSpeed config."""
    training = config.training
    is_chat = config.data.template == "chat"
    size = adapters.adapter_size(config.adapter)
    unset = ("preset", "init_adapter")
    adapter = {name: value for name, value in vars(config.adapter).items() if name not in unset} | vars(size)
    values = {
        "--data": data.dataset.fingerprint,
        "--data, examples": len(data.dataset),
        "--data, training examples": data.training.digest,
        "--eval-data": data.eval_dataset.fingerprint,
        "--eval-data, examples": data.held_out.digest,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "--template": config.data.template,
        **({"chat template": _digest(described_template(tokenizer, "chat"))} if is_chat else {}),
        "--base-model": base_revision,
        "--base-dtype": dtype,
        **{f"--{name.replace('_', '-')}": value for name, value in adapter.items()},
        "--seed": training.seed,
        "--global-batch-size": training.global_batch_size,
        "steps (--max-steps, --epochs)": num_steps,
        **({} if training.max_tokens is None else {"--max-tokens": training.max_tokens}),
        "--learning-rate": training.learning_rate,
        "--warmup-share": training.warmup_share,
        "--weight-decay": training.weight_decay,
        "--max-grad-norm": training.max_grad_norm,
        "--ds optimizer.type": optimizer["type"],
        **{f"--ds optimizer.params.{name}": optimizer["params"].get(name) for name in ("betas", "eps")},
    }
    return json.loads(json.dumps(values))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
