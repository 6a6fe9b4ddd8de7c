"""What a run says before its first step: what it understood, in five lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snake_dist.run.summary import RunFacts, render_data

if TYPE_CHECKING:
    from snake_dist.run.preparation import Run


def render_start(run: Run, facts: RunFacts) -> str:
    """Return model, data, batch, steps and output, a line each."""
    share, parameters = run.share, facts["parameters"]
    seen = run.stream.num_examples_total
    style = f"style {run.board.style}" if run.board.style else "no known style"
    lines = {
        "model": f"{run.base_location} in {run.dtype}, {run.config.adapter.adapter}: {parameters['trainable']:,} of "
        f"{parameters['total']:,} parameters trained ({parameters['trainable_share']:.2%})",
        "data": f"{render_data(facts['data'])}; prompts of {style}",
        "batch": f"{run.stream.global_batch_size} examples a step: {share.world_size} rank(s) x "
        f"{share.micro_batch_size} at most x {share.accumulation} accumulated; ZeRO stage {facts['zero_stage']}, "
        f"{'packed without padding' if facts['packed'] else 'padded'}",
        "steps": f"{run.num_steps:,}: {seen:,} examples, {seen / len(run.stream.examples):.3g} epochs"
        + (f"; {run.first_step:,} are done" if run.first_step else ""),
        "output": str(run.output_dir),
    }
    return "\n".join(f"{name + ':':8}{text}" for name, text in lines.items())
