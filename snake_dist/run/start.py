"""What a run says before its first step: what it understood, in five lines, and the first example."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import numpy as np

from snake_dist.run.data import DataSummary
from snake_dist.run.stream import render_sources
from snake_dist.run.summary import RunFacts, render_data

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run

SHOWN_CHARACTERS = 300
"""At the beginning and the end of a long part of an example."""
SHOWN_FILES = 8


def render_start(run: Run, facts: RunFacts) -> str:
    """Return model, data, batch, steps and output, a line each."""
    share, parameters = run.share, facts["parameters"]
    seen = run.stream.num_examples_total
    style = f"style {run.board.style}" if run.board.style else "no known style"
    lines = {
        "model": f"{run.base_location} in {run.dtype}, {run.config.adapter.adapter}: {parameters['trainable']:,} of "
        f"{parameters['total']:,} parameters trained ({parameters['trainable_share']:.2%})",
        "data": f"{render_data(facts['data'])}; prompts of {style}, {run.config.data.template} template",
        "batch": f"{run.stream.global_batch_size} examples a step: {share.world_size} rank(s) x "
        f"{share.micro_batch_size} at most x {share.accumulation} accumulated; ZeRO stage {facts['zero_stage']}, "
        f"{'packed without padding' if facts['packed'] else 'padded'}",
        "steps": f"{run.num_steps:,}: {seen:,} examples, {seen / len(run.stream.examples):.3g} epochs"
        + (f"; {run.first_step:,} are done" if run.first_step else ""),
        "output": str(run.output_dir),
    }
    rendered = [f"{name + ':':8}{text}" for name, text in lines.items()]
    details = [*_render_files(facts["data"]), *render_sources(run.sources, run.stream)]
    rendered[2:2] = [" " * 8 + line for line in details]
    return "\n".join(rendered)


def _render_files(data: DataSummary) -> list[str]:
    """Return what each file was recognised as, a line each; the rest of many by their number."""
    lines = [
        f"{Path(file).name}: {f'{form}, {number:,} usable lines' if form else 'no usable line'}"
        for file, (form, number) in zip(data["files"], data["forms"], strict=True)
    ]
    more = [f"and {len(lines) - SHOWN_FILES:,} more files"] if len(lines) > SHOWN_FILES else []
    return [*lines[:SHOWN_FILES], *more]


def render_example(run: Run) -> str:
    """Return the first training example as the model reads it, with double brackets around what is trained."""
    example = run.data.dataset[int(run.data.train_examples[0])]
    is_trained = np.arange(len(example.input_ids)) >= example.num_prompt_tokens
    if example.is_skipped is not None:
        is_trained &= ~example.is_skipped
    starts = [0, *np.flatnonzero(is_trained[1:] != is_trained[:-1]) + 1, len(is_trained)]
    parts = [
        (run.tokenizer.decode(example.input_ids[start:stop]), is_trained[start]) for start, stop in pairwise(starts)
    ]
    shown = "".join(f"[[{_shortened(text)}]]" if trained else _shortened(text) for text, trained in parts)
    return f"the first example, what is trained in [[ ]]:\n{indent(shown, '    ', lambda _line: True)}"


def _shortened(text: str) -> str:
    """Return its beginning and end."""
    cut = len(text) - 2 * SHOWN_CHARACTERS
    return text if cut <= 0 else f"{text[:SHOWN_CHARACTERS]} ({cut:,} characters) {text[-SHOWN_CHARACTERS:]}"
