"""What `gpu.py` compares: each contender trains a random model of one shape on random lines, and is timed step by step.

A contender takes (shape, lines, number of steps, options) and returns a `Turn`.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_models import SHAPES, Lines, MadeLines, device, made, peak_gib, synchronize

RANK, ALPHA, DROPOUT = 16, 32, 0.05
LEARNING_RATE = 1e-4


@dataclass
class Turn:
    """One contender's steps, in order; the first ones compile and warm up."""

    seconds: list[float] = field(default_factory=list)
    trained_tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    mfu: list[float] = field(default_factory=list)
    """Of this package's steps, on cards whose peak is known."""
    peak_gib: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)


def trainer_of(shape: str, lines: Lines, num_steps: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return a `Trainer` of this package as a run builds it, and what is worth noting of it.

    Options: adapter, stage, dtype, dropout, layers ("kernels": liger-kernel's, "compiled" or "plain"), state (what
    `gather_state` returned, to resume from).
    """
    import torch

    from snake_dist.accelerator import fuses
    from snake_dist.cluster.world import start_process_group, world_from_environment
    from snake_dist.data.batching import ExampleStream
    from snake_dist.data.packing import pack, pad
    from snake_dist.model import adapters, base, compiled_layers, dropout, fast_path
    from snake_dist.model.packing_proof import use_packed_attention
    from snake_dist.training.adalora_ranks import rank_allocation
    from snake_dist.training.config import TrainingConfig
    from snake_dist.training.trainer import Share, Trainer
    from snake_dist.zero.config import RunValues, build_ds_config, fill_ds_config
    from snake_dist.zero.engine import start_engine
    from snake_dist.zero.state import load_masters, load_state

    base.quieten_libraries()
    start_process_group(world_from_environment())
    adapter, stage, dtype = options.get("adapter", "lora"), options.get("stage", 2), options.get("dtype", "bfloat16")
    model = made(shape, dtype)
    if adapter == "qlora":
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            del model
            model = base.load_base(directory, dtype, quantization=adapters.QUANTIZATION["qlora"], device=device())
    is_packed = use_packed_attention(model, device())
    torch.manual_seed(0)
    config = adapters.AdapterConfig(adapter=adapter, rank=RANK, alpha=ALPHA, dropout=options.get("dropout", DROPOUT))
    model = adapters.attach(model, config, num_steps=num_steps)
    dropout.use_shared_dropout(model)
    layers = options.get("layers", "kernels")
    if stage < 3 and layers != "plain":
        fast_path.use_fast_ops(model)
    if layers == "kernels":
        fast_path.use_fused_ops(model)
    is_compiled = stage < 3 and layers == "compiled" and fuses(next(model.parameters()))
    if is_compiled:
        compiled_layers.compile_layers(model)
    values = RunValues(dtype, lines.num_examples, lines.num_examples, 1, 1, LEARNING_RATE, 0.0, 1.0)
    ds_config = fill_ds_config(build_ds_config(stage), values, hidden_size=SHAPES[shape]["hidden_size"])
    tensors, numbers = options.get("state", ({}, {}))
    if tensors:
        load_masters(model, tensors)
    engine = start_engine(model, ds_config)
    engine.train()
    allocation = rank_allocation(engine, model)
    if tensors:
        load_state(engine, tensors, numbers)
    dataset: Any = MadeLines(lines, min(4, num_steps) * lines.num_examples, SHAPES[shape]["vocab_size"])
    stream = ExampleStream(np.arange(len(dataset)), 0, lines.num_examples, num_steps * lines.num_examples)
    training = TrainingConfig(
        global_batch_size=lines.num_examples, micro_batch_size=lines.num_examples, learning_rate=LEARNING_RATE
    )
    share = Share(0, 1, lines.num_examples, 1)
    trainer = Trainer(engine, dataset, stream, share, pack if is_packed else pad, training, allocation)
    return trainer, {"packed": is_packed, "compiled": is_compiled}


def snake_dist(shape: str, lines: Lines, num_steps: int, **options: Any) -> Turn:
    """This package's loop, through DeepSpeed, logging every step."""

    from snake_dist.training.loop import run_steps

    trainer, notes = trainer_of(shape, lines, num_steps, **options)
    turn = Turn(notes=notes)
    last = time.perf_counter()

    def log(step: int, metrics: dict[str, float]) -> None:
        nonlocal last
        if "train/loss" not in metrics:
            return
        now = time.perf_counter()
        turn.seconds.append(now - last)
        turn.losses.append(metrics["train/loss"])
        turn.mfu += [metrics["train/mfu"]] if "train/mfu" in metrics else []
        ids = trainer.stream.step_examples(step - 1)
        turn.trained_tokens.append(int(trainer.dataset.num_loss_tokens[ids].sum()))
        last = now

    run_steps(trainer, log=log, evaluate=lambda _step: {})
    turn.peak_gib = peak_gib()
    return turn


def bare(shape: str, lines: Lines, num_steps: int, **_: Any) -> Turn:
    """A loop as one writes it: padded, all logits, PyTorch's AdamW, no DeepSpeed."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules="all-linear")
    model = get_peft_model(made(shape), config, autocast_adapter_dtype=False).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE)
    dataset = MadeLines(lines, 4 * lines.num_examples, SHAPES[shape]["vocab_size"])
    turn = Turn()
    for step in range(num_steps):
        synchronize()
        started = time.perf_counter()
        first = step * lines.num_examples % len(dataset)
        examples = dataset.examples[first : first + lines.num_examples]
        width = max(len(example.input_ids) for example in examples)
        ids = np.zeros((len(examples), width), dtype=np.int64)
        labels = np.full_like(ids, -100)
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            ids[row, :length] = example.input_ids
            labels[row, example.num_prompt_tokens : length] = example.input_ids[example.num_prompt_tokens :]
        tensors = {"input_ids": ids, "labels": labels, "attention_mask": (ids > 0).astype(np.int64)}
        batch = {name: torch.from_numpy(value).to(device()) for name, value in tensors.items()}
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        turn.losses.append(loss.item())
        turn.seconds.append(time.perf_counter() - started)
        turn.trained_tokens.append(sum(example.num_loss_tokens for example in examples))
    turn.peak_gib = peak_gib()
    return turn


def trl(shape: str, lines: Lines, num_steps: int, *, packing: bool = False, liger: bool = False, **_: Any) -> Turn:
    """TRL's SFTTrainer on the same token ids, padded or packed, with or without liger-kernel."""
    import torch
    from datasets import load_dataset
    from transformers import PreTrainedTokenizerFast

    from benchmarks.trl_steps import train_with_trl

    dataset = MadeLines(lines, (num_steps + 1) * lines.num_examples, SHAPES[shape]["vocab_size"])
    directory = Path(tempfile.mkdtemp())
    with (directory / "lines.jsonl").open("w") as file:
        for example in dataset.examples:
            masked = [0] * example.num_prompt_tokens
            mask = masked + [1] * (len(example.input_ids) - len(masked))
            file.write(json.dumps({"input_ids": example.input_ids.tolist(), "completion_mask": mask}) + "\n")
    row = int(dataset.lengths[: lines.num_examples].sum())
    on_gpu = torch.cuda.is_available()
    done = train_with_trl(
        made(shape),
        PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), pad_token="<pad>", eos_token="<eos>"),
        load_dataset("json", data_files=str(directory / "lines.jsonl"), split="train"),
        {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": DROPOUT},
        synchronize,
        output_dir=str(directory), max_steps=num_steps,
        per_device_train_batch_size=1 if packing else lines.num_examples, packing=packing,
        max_length=row if packing else int(dataset.lengths.max()),
        learning_rate=LEARNING_RATE, bf16=on_gpu, use_cpu=not on_gpu, use_liger_kernel=liger,
    )  # fmt: skip
    return Turn(done.seconds, done.trained_tokens, done.losses, peak_gib=peak_gib())


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))


def bound(shape: str, lines: Lines, num_steps: int, **_: Any) -> Turn:
    """Only the matrix products that no step on these tokens can avoid, the shared prefix computed once, in bf16.

    Forward and input gradient of every frozen layer, the six products of every LoRA layer, the head where a token is
    trained. Attention is left out, and so are the input gradients of the first layer's projections.
    """
    import torch

    values = SHAPES[shape]
    hidden, inner = values["hidden_size"], values["intermediate_size"]
    head_dim = values.get("head_dim", hidden // values["num_attention_heads"])
    kv = head_dim * values["num_key_value_heads"]
    sizes = [(hidden, head_dim * values["num_attention_heads"]), (hidden, kv), (hidden, kv)]
    sizes += [(sizes[0][1], hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    examples = [lines.example(i, values["vocab_size"]) for i in range(lines.num_examples)]
    num_rows = sum(len(ids) for ids, _ in examples) - lines.prefix * (lines.num_examples - 1)
    trained = sum(len(ids) - max(prompt, 1) for ids, prompt in examples)
    make = {"dtype": torch.bfloat16, "device": device()}
    weights = [torch.randn(n, k, **make) for k, n in sizes]
    adapters = [(torch.randn(RANK, k, **make), torch.randn(n, RANK, **make)) for k, n in sizes]
    wide = {width: torch.randn(num_rows, width, **make) for size in sizes for width in size}
    low = torch.randn(num_rows, RANK, **make)
    head = torch.randn(values["vocab_size"], hidden, **make)
    last, grad_logits = torch.randn(trained, hidden, **make), torch.randn(trained, values["vocab_size"], **make)
    turn = Turn()
    with torch.no_grad():
        for _step in range(num_steps):
            synchronize()
            started = time.perf_counter()
            for layer in range(values["num_hidden_layers"]):
                for index, (weight, (lora_a, lora_b)) in enumerate(zip(weights, adapters, strict=True)):
                    x, grad = wide[weight.shape[1]], wide[weight.shape[0]]
                    x @ weight.t(), x @ lora_a.t(), low @ lora_b.t()
                    grad @ lora_b, grad.t() @ low, low.t() @ x
                    if layer or index > 2:
                        grad @ weight, low @ lora_a
            last @ head.t(), grad_logits @ head
            synchronize()
            turn.seconds.append(time.perf_counter() - started)
            turn.trained_tokens.append(trained)
    return turn


CONTENDERS: dict[str, tuple[Callable[..., Turn], dict[str, Any]]] = {
    "snake_dist": (snake_dist, {}),
    "snake_dist, plain layers": (snake_dist, {"layers": "plain"}),
    "snake_dist, compiled": (snake_dist, {"layers": "compiled"}),
    "snake_dist, qlora": (snake_dist, {"adapter": "qlora"}),
    "trl": (trl, {}),
    "trl, packed": (trl, {"packing": True}),
    "trl, liger": (trl, {"liger": True}),
    "trl, packed, liger": (trl, {"packing": True, "liger": True}),
    "bare": (bare, {}),
    "bound": (bound, {}),
}
