"""TRL's SFTTrainer as a contender of both benchmarks: `speed.py` on CPUs, `gpu.py` on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrlSteps:
    """Of each step of this rank, in order."""

    seconds: list[float] = field(default_factory=list)
    trained_tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def train_with_trl(
    model: Any,
    tokenizer: Any,
    lines: Any,
    lora: dict[str, Any],
    synchronize: Callable[[], None] = lambda: None,
    **options: Any,
) -> TrlSteps:
    """Train a LoRA adapter on the lines of a `datasets` data set, logging every step; `options` are of `SFTConfig`."""
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    steps = TrlSteps()
    counted: list[int] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            steps.seconds.append(time.perf_counter() - self.started)
            steps.trained_tokens.append(counted.pop())

        def on_log(self, *args: Any, logs: dict[str, float] | None = None, **__: Any) -> None:  # noqa: ARG002
            if logs and "loss" in logs:
                steps.losses.append(logs["loss"])

    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1, gradient_checkpointing=False,
            completion_only_loss=True, **options,
        ),
        train_dataset=lines,
        processing_class=tokenizer,
        peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **lora),
        callbacks=[Clock()],
    )  # fmt: skip
    collate = trainer.data_collator

    def counting(rows: list[Any]) -> Any:
        batch = collate(rows)
        counted.insert(0, int((batch["labels"][:, 1:] != -100).sum()))
        return batch

    trainer.data_collator = counting
    trainer.train()
    return steps
