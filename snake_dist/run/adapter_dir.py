"""The directory of a run's adapter: rehearsed before the first step, written after the last."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from snake_dist.checkpoint.plain_lora import PlainAdapter, Start, plain_adapter
from snake_dist.checkpoint.saved_adapter import prove_adapter, save_adapter
from snake_dist.cluster.world import agree
from snake_dist.evaluation.players.trained_prompts import with_earlier_hashes
from snake_dist.files import ADAPTER_DIR
from snake_dist.run.model_card import adapter_metadata, model_card
from snake_dist.run.summary import TrainingSummary
from snake_dist.zero.parameters import gather_adapter

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftConfig, PeftModel

    from snake_dist.run.preparation import Run

REHEARSAL = ".adapter_rehearsal"


@dataclass(frozen=True)
class Trained:
    """A trained adapter, still in memory."""

    summary: TrainingSummary
    peft_config: PeftConfig
    tensors: dict[str, torch.Tensor]
    """The adapter under the names of PEFT's file format, on the CPU, on every rank."""
    start: Start
    """What is remembered of the adapter before its training."""


def save(run: Run, trained: Trained) -> Path:
    """Write the trained adapter on rank 0 and read it back; return its directory. Collective."""
    directory = run.output_dir / ADAPTER_DIR

    def write() -> None:
        plain = plain_adapter(trained.peft_config, trained.tensors, trained.start)
        _write(run, directory, plain, trained.summary, run.data.dataset.prompt_hashes)

    agree(run.world, write)
    return directory


def rehearse_save(run: Run, model: PeftModel, start: Start) -> None:
    """Save the adapter as it is before this session's first step, read it back and remove it. Collective.

    Raises InputError, on all ranks alike, for whatever would keep the trained adapter from being saved at the end.
    """
    directory, tensors = run.output_dir / REHEARSAL, gather_adapter(model)

    def write() -> None:
        shutil.rmtree(directory, ignore_errors=True)  # of a session that was killed here
        try:
            plain = plain_adapter(model.peft_config["default"], tensors, start)
            untrained = replace(plain, zeros=frozenset())
            # One prompt stands for all: sorting them takes its time, and cannot fail.
            _write(run, directory, untrained, cast(TrainingSummary, {}), run.data.dataset.prompt_hashes[:1])
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    agree(run.world, write)


def _write(
    run: Run, directory: Path, plain: PlainAdapter, training: TrainingSummary, prompt_hashes: np.ndarray
) -> None:
    metadata = adapter_metadata(run, plain.config, training)
    prompts = with_earlier_hashes(prompt_hashes, run.config.adapter.init_adapter)
    save_adapter(directory, plain, run.tokenizer, metadata, model_card(metadata), prompts)
    prove_adapter(directory, plain.shapes, plain.zeros)
