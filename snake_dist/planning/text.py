"""A plan as text, which launcher/plan.py prints."""

from __future__ import annotations

from dataclasses import replace

from snake_dist.planning.choice import GIB, largest_micro_batch
from snake_dist.planning.communication import seconds, step_collectives
from snake_dist.planning.config import PlanConfig
from snake_dist.planning.memory import RankMemory, rank_memory
from snake_dist.planning.plan import Planned
from snake_dist.planning.shapes import Setup, base_bytes
from snake_dist.planning.step_time import micro_batch_flops, run_length, step_time


def render_plan(planned: Planned, config: PlanConfig) -> str:
    """Render the whole plan."""
    return "\n\n".join(
        [render_model(planned), render_memory(planned), render_choice(planned), render_step(planned, config)]
    )


def render_model(planned: Planned) -> str:
    model, setup = planned.model, planned.choice.setup
    share = model.num_trainable / (model.num_base + model.num_trainable)
    quantized = "NF4 with double quantization, the rest in " if setup.nf4 else ""
    return (
        f"parameters   {model.num_base:,} in the base, {model.num_trainable:,} trainable ({share:.2%})\n"
        f"base         {base_bytes(model, setup) / GIB:.3f} GiB in {quantized}{setup.dtype}\n"
        f"micro-batch  {planned.batch.num_examples} examples of at most {planned.batch.tokens_per_example} tokens, "
        f"{planned.batch.trained_share:.0%} trained; {planned.accumulation} a rank and step, {setup.num_ranks} rank(s)"
    )


def render_memory(planned: Planned) -> str:
    """Render the bytes per rank, a column per setup, and the largest micro-batch of each."""
    model, batch = planned.model, planned.batch
    setups = dict(planned.setups)
    if planned.choice.setup not in setups.values():
        setups["recommended"] = planned.choice.setup
    checkpointed = {name: replace(setup, gradient_checkpointing=True) for name, setup in setups.items()}
    memories = {name: rank_memory(model, setup, batch, planned.accumulation) for name, setup in setups.items()}
    devices = [memory.device for memory in memories.values()]
    rows = [("GiB a rank", [*memories])]
    for part in devices[0]:
        rows.append((part, [f"{device[part] / GIB:.3f}" for device in devices]))
    rows.append(("total", [f"{memory.total / GIB:.3f}" for memory in memories.values()]))
    rows.append(("at the start", [f"{memory.start / GIB:.3f}" for memory in memories.values()]))
    fits = ["yes" if memory.peak <= planned.memory else "no" for memory in memories.values()]
    rows.append((f"fits {planned.memory / GIB:.2f}", fits))
    rows.append(("largest micro-batch", _largest(planned, setups)))
    rows.append(("  with checkpointing", _largest(planned, checkpointed)))
    rows.append(("host memory", [f"{_host(memory) / GIB:.3f}" for memory in memories.values()]))
    lines = [f"{label:22}" + "".join(f"{cell:>12}" for cell in cells) for label, cells in rows]
    return "\n".join(lines)


def _largest(planned: Planned, setups: dict[str, Setup]) -> list[str]:
    """Count the examples of the largest micro-batch that fits, for each setup; "-" if not even one does."""
    counts = [
        largest_micro_batch(planned.model, setup, planned.batch, planned.memory, planned.accumulation)
        for setup in setups.values()
    ]
    return [str(count) if count else "-" for count in counts]


def _host(memory: RankMemory) -> float:
    """Return the bytes of the offloaded state, or of the base while it is loaded, whichever are more."""
    loading = memory.host["base while loading"]
    return max(loading, sum(memory.host.values()) - loading)


def render_choice(planned: Planned) -> str:
    choice = planned.choice
    setup = choice.setup
    extras = [
        text
        for text, is_on in (
            ("gradient checkpointing", setup.gradient_checkpointing),
            ("optimizer on the host", setup.offload_optimizer),
            ("base on the host", setup.offload_parameters),
            ("hpZ", setup.stage == 3 and setup.hpz_ranks > 0),
        )
        if is_on
    ]
    name = ", ".join([f"ZeRO {setup.stage}", *extras])
    return f"{'recommended' if choice.fits else 'does not fit'}: {name}: {choice.reason}"


def render_step(planned: Planned, config: PlanConfig) -> str:
    """Render the messages and seconds of a step of the recommended setup, and steps, tokens and hours of the run."""
    model, setup, batch, ranks = planned.model, planned.choice.setup, planned.mean_batch, planned.choice.setup.num_ranks
    lines = ["a step sends, per rank (messages in GiB, ms on these links):"]
    collectives = step_collectives(model, setup, planned.accumulation)
    for one in collectives:
        took = seconds(one, ranks, planned.speed.links)
        sent = one.sent(ranks) / GIB
        lines.append(f"  {one.what:18}{one.kind:>15}{sent:12.4f}{1e3 * took:10.1f} ms in {one.num_calls} calls")
    if not collectives:
        lines = ["one rank sends nothing"]
    times = step_time(model, setup, batch, planned.accumulation, planned.speed, save_every=config.save_every)
    tokens = planned.accumulation * batch.tokens
    speed = planned.speed
    rate = f"{speed.flops / 1e12:.0f} TFLOP/s at {speed.efficiency:.0%} (assumptions)"
    if speed.tokens_per_s is not None:
        rate = f"{speed.tokens_per_s:g} tokens/s a rank as given"
    flops = micro_batch_flops(model, setup, batch) / batch.tokens
    lines += [
        f"computing: {flops / 1e9:.2f} GFLOP a token, {batch.tokens_per_example} tokens an example, {rate}",
        f"a step takes {times.total:.3f} s ({times.not_overlapped:.3f} without overlap): computing "
        f"{times.compute:.3f}, gathers {times.gathers:.3f}, reduction {times.reduction:.3f}, "
        f"saving {times.checkpoint:.3f}, data {times.data:.3f}",
        f"tokens/s: {tokens / times.total:,.0f} a rank, {ranks * tokens / times.total:,.0f} in all",
    ]
    if planned.num_examples is not None:
        examples_per_step = ranks * planned.accumulation * batch.num_examples
        num_steps = run_length(planned.num_examples, config.epochs, examples_per_step)
        seen = planned.num_examples * config.epochs * batch.tokens_per_example
        lines.append(
            f"{planned.num_examples:,} examples x {config.epochs:g} epochs: {num_steps:,} steps of "
            f"{examples_per_step}, {seen:,.0f} tokens, {num_steps * times.total / 3600:.2f} hours"
        )
    return "\n".join(lines)
