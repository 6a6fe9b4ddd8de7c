"""The jobs of `gpu.py` beside its contenders: what the device can do, whether training is right, what a step does.

A job takes keyword options and returns a JSON object. Each runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from statistics import median
from typing import Any

from benchmarks.gpu_step import trainer_of
from benchmarks.made_models import SNAKE, TINY, device, made, synchronize

NUM_STEPS = 4


def ceilings(*, tiny: bool) -> dict[str, Any]:
    """Return what the device reaches: bf16 matrix products in TFLOP/s, copies in TB/s (read and written)."""
    import torch

    size = 256 if tiny else 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device()) for _ in range(2))
    source = torch.empty((1 << 16) if tiny else (1 << 30), dtype=torch.bfloat16, device=device())
    target = torch.empty_like(source)
    product, copy = _seconds(lambda: a @ b), _seconds(lambda: target.copy_(source))
    return {"matmul_tflops": 2 * size**3 / product / 1e12, "copy_tb_s": 2 * source.nbytes / copy / 1e12}


def losses(*, adapter: str, dtype: str) -> dict[str, Any]:
    """Return the losses of the first steps of a tiny model without dropout, by ZeRO stage."""
    from benchmarks.gpu_step import snake_dist

    found = {}
    for stage in (0, 1, 2, 3):
        turn = snake_dist("tiny", TINY, NUM_STEPS, adapter=adapter, stage=stage, dtype=dtype, dropout=0.0)
        found[f"zero_{stage}"] = [round(loss, 5) for loss in turn.losses]
    return {"losses": found, **turn.notes}


def resume(*, stage: int) -> dict[str, Any]:
    """Return whether a run's repetition and its resumption from the middle end with its bits (bf16, dropout 0.05)."""
    from snake_dist.training.loop import training_step
    from snake_dist.zero.parameters import gather_adapter
    from snake_dist.zero.state import gather_state

    def trained(first_step: int, end: int, **state: Any) -> Any:
        trainer, _ = trainer_of("tiny", TINY, NUM_STEPS, stage=stage, **state)
        for step in range(first_step, end):
            training_step(trainer, trainer.stream.step_examples(step), step=step)
        return trainer.engine

    def digest(engine: Any) -> str:
        found = hashlib.sha256()
        for _, tensor in sorted(gather_adapter(engine.module).items()):
            found.update(tensor.float().numpy().tobytes())
        return found.hexdigest()

    whole, again = (digest(trained(0, NUM_STEPS)) for _ in range(2))
    half = gather_state(trained(0, NUM_STEPS // 2))
    return {"repeats": whole == again, "resumes": whole == digest(trained(NUM_STEPS // 2, NUM_STEPS, state=half))}


def step_profile(*, shape: str, tiny: bool, layers: str = "kernels") -> dict[str, Any]:
    """Return what one step of this package does: kernels, busy times of host and device, waits, DeepSpeed's step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from snake_dist.training.loop import training_step
    from snake_dist.zero.engine import take_step

    warm = 4
    trainer, notes = trainer_of(shape, TINY if tiny else SNAKE, warm + 8, layers=layers)
    for step in range(warm):
        training_step(trainer, trainer.stream.step_examples(step), step=step)
    synchronize()
    hosts, steps, optimizer = [], [], []
    for step in range(warm, warm + 5):
        started = time.perf_counter()
        training_step(trainer, trainer.stream.step_examples(step), step=step)
        hosts.append(time.perf_counter() - started)
        synchronize()
        steps.append(time.perf_counter() - started)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as found:
        training_step(trainer, trainer.stream.step_examples(warm + 5), step=warm + 5)
        synchronize()
    kernels: Counter[str] = Counter()
    device_us = 0.0
    waits: Counter[str] = Counter()
    for event in found.events():
        if event.device_type.name == "CUDA":
            kernels[event.name] += 1
            device_us += event.device_time
        elif event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"):
            waits[event.name] += 1
    for step in (warm + 6, warm + 7):
        batches = list(trainer.batches(trainer.dataset, trainer.stream.step_examples(step)))
        from snake_dist.training.loss import forward_trained, loss_sum
        from snake_dist.zero.engine import backward

        logits, labels, _ = forward_trained(trainer.engine, batches[0][1])
        backward(trainer.engine, loss_sum(logits, labels) / len(labels))
        synchronize()
        started = time.perf_counter()
        take_step(trainer.engine)
        synchronize()
        optimizer.append(time.perf_counter() - started)
    return {
        **notes,
        "step_ms": 1e3 * median(steps),
        "host_ms": 1e3 * median(hosts),
        "device_ms": device_us / 1e3,
        "kernels": sum(kernels.values()),
        "waits": dict(waits),
        "optimizer_ms": 1e3 * min(optimizer),
        "longest_kernels": [
            f"{name[:60]} x{kernels[name]}"
            for name, _ in Counter(
                {name: sum(e.device_time for e in found.events() if e.name == name) for name in kernels}
            ).most_common(8)
        ],
    }


def decode(*, shape: str, tiny: bool, num_prompts: int) -> dict[str, Any]:
    """Return the tokens a second that slots decode: prompts of about 220 tokens, 64 new tokens each."""
    import torch

    from snake_dist.model.decoding import SlotDecoder, has_slots

    model = made(shape).eval()
    model.generation_config.eos_token_id = 1
    num_new = 4 if tiny else 64
    lines = TINY if tiny else SNAKE
    vocab_size = model.config.vocab_size
    prompts = [lines.example(i, vocab_size)[0][: 20 if tiny else 220].tolist() for i in range(num_prompts)]
    assert has_slots(model)
    seconds = []
    with torch.no_grad():
        for _turn in range(2):
            decoder = SlotDecoder(model, [], num_new, num_prompts)
            synchronize()
            started = time.perf_counter()
            for name, prompt in enumerate(prompts):
                decoder.add(name, prompt)
            num_tokens = 0
            while decoder.is_busy:
                num_tokens += sum(len(reply) for _, reply in decoder.finished())
            synchronize()
            seconds.append(time.perf_counter() - started)
    return {"tokens_per_s": num_tokens / seconds[-1], "num_tokens": num_tokens}


def judge_memory(*, shape: str, tiny: bool, stage: int) -> dict[str, Any]:
    """Return the device's GiB in use in training and when the judge would load its models."""
    import torch

    from snake_dist.accelerator import release_memory
    from snake_dist.training.loop import training_step
    from snake_dist.zero.engine import end_engine

    trainer, _ = trainer_of(shape, TINY if tiny else SNAKE, 2, stage=stage, layers="plain")
    for step in range(2):
        training_step(trainer, trainer.stream.step_examples(step), step=step)
    allocated = torch.cuda.memory_allocated if torch.cuda.is_available() else lambda: 0
    before = allocated()
    engine = trainer.engine
    end_engine(engine)
    del trainer, engine
    release_memory()
    return {"in_training_gib": before / 2**30, "before_the_judge_gib": allocated() / 2**30}


def _seconds(work: Any) -> float:
    work()
    times = []
    for _ in range(5):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - started)
    return median(times)
