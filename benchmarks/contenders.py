"""What the speed benchmark compares: each trains the same model on the same lines; see `speed.py`.

A contender takes (path of the JSONL, number of steps, name of the dtype) and returns (seconds, trained tokens of all
ranks) of each step. It leaves the process group open.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLES_PER_RANK = 4
RANK, ALPHA = 16, 32
Steps = list[tuple[float, int]]


def snake_dist(data: str, num_steps: int, dtype: str) -> Steps:
    """The package's own loop, logging every step."""
    from snake_dist.cluster.world import agree, world_from_environment
    from snake_dist.model import base
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.preparation import prepare
    from snake_dist.run.training import load_model
    from snake_dist.training.loop import run_steps
    from snake_dist.training.trainer import Trainer
    from snake_dist.zero.engine import start_engine

    base.quieten_libraries()
    world = world_from_environment()
    output = Path(tempfile.gettempdir()) / f"snake_dist_benchmark_run_{os.environ['MASTER_PORT']}"
    flags = {
        "data": data, "output-dir": output, "max-steps": num_steps, "dropout": 0, "rank": RANK, "alpha": ALPHA,
        "micro-batch-size": EXAMPLES_PER_RANK, "global-batch-size": EXAMPLES_PER_RANK * world.size,
        "wandb-mode": "disabled", "base-dtype": dtype,
    }  # fmt: skip
    run = prepare(
        parse_run_config([part for name, value in flags.items() for part in (f"--{name}", str(value))]), world
    )
    model, collate = load_model(run)
    engine = start_engine(model, run.ds_config)
    steps: Steps = []
    last = time.perf_counter()

    def log(step: int, _metrics: dict[str, float]) -> None:
        nonlocal last
        if step > len(steps):
            now = time.perf_counter()
            ids = run.stream.step_examples(step - 1)
            steps.append((now - last, int(run.data.dataset.num_loss_tokens[ids].sum())))
            last = now

    trainer = Trainer(engine, run.data.dataset, run.stream, run.share, collate, run.config.training)
    run_steps(trainer, log=log, evaluate=lambda _step: {})
    agree(world, lambda: shutil.rmtree(output))
    return steps


def trl(data: str, num_steps: int, dtype: str) -> Steps:
    """TRL's SFTTrainer as its users run it on CPUs: plain DDP, padded batches."""
    return _trl(data, num_steps, dtype, packing=False)


def trl_packed(data: str, num_steps: int, dtype: str) -> Steps:
    """The same with TRL's packing, rows of about as many tokens as a padded batch."""
    return _trl(data, num_steps, dtype, packing=True)


def _trl(data: str, num_steps: int, dtype: str, *, packing: bool) -> Steps:
    import torch
    from datasets import load_dataset

    from benchmarks.trl_steps import train_with_trl

    model, tokenizer = _base_and_tokenizer(dtype)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    num_examples = num_steps * EXAMPLES_PER_RANK * int(os.environ["WORLD_SIZE"])
    lines = load_dataset("json", data_files=data, split="train")
    lines = lines.remove_columns([name for name in lines.column_names if name not in ("prompt", "completion")])
    # Enough rows for packing, which makes fewer of them.
    lines = lines.shuffle(seed=0).select(range(min(len(lines), 4 * num_examples)))
    done = train_with_trl(
        model, tokenizer, lines, {"r": RANK, "lora_alpha": ALPHA}, output_dir=tempfile.mkdtemp(), max_steps=num_steps,
        per_device_train_batch_size=1 if packing else EXAMPLES_PER_RANK, packing=packing, max_length=1536,
        learning_rate=1e-3, bf16=False, use_cpu=True, ddp_backend="gloo",
    )  # fmt: skip
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    tokens = torch.tensor(done.trained_tokens)
    torch.distributed.all_reduce(tokens)
    return list(zip(done.seconds, tokens.tolist(), strict=True))


def bare(data: str, num_steps: int, dtype: str) -> Steps:
    """A loop of fifty lines as one writes it: packed without padding, logits where trained, gradients all-reduced."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.distributed.init_process_group("gloo")
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    model, tokenizer = _base_and_tokenizer(dtype)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config, autocast_adapter_dtype=False).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    steps: Steps = []
    for examples in _examples(data, tokenizer, num_steps):
        started = time.perf_counter()
        mine = examples[rank::ranks]
        ids = torch.tensor([[token for tokens, _ in mine for token in tokens]])
        positions = torch.cat([torch.arange(len(tokens)) for tokens, _ in mine])[None]
        ends = torch.tensor([len(tokens) for tokens, _ in mine]).cumsum(0).tolist()
        columns = torch.cat(
            [
                torch.arange(end - len(tokens) + prompt - 1, end - 1)
                for end, (tokens, prompt) in zip(ends, mine, strict=True)
            ]
        )
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=columns).logits[0]
        num_tokens = sum(len(tokens) - prompt for tokens, prompt in examples)
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, columns + 1], reduction="sum") / num_tokens
        loss.backward()
        for parameter in trainable:
            torch.distributed.all_reduce(parameter.grad)
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps.append((time.perf_counter() - started, num_tokens))
    return steps


def bound(data: str, num_steps: int, dtype: str) -> Steps:
    """Only the matrix products that a step cannot avoid, on random numbers.

    Forward and input gradient of every frozen layer, the six products of every LoRA layer, the head where a token
    is trained, and causal attention's six at half of the square. A prefix of all prompts is computed once. No input
    gradient below the first layer's projections is counted.
    """
    import torch
    from torch.nn.functional import linear

    torch.distributed.init_process_group("gloo")
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    model, tokenizer = _base_and_tokenizer(dtype)
    shape = model.config
    weights = [module.weight for module in model.model.layers[0].modules() if isinstance(module, torch.nn.Linear)]
    head, num_layers, num_heads = model.lm_head.weight, shape.num_hidden_layers, shape.num_attention_heads
    size = shape.hidden_size // num_heads
    random = partial(torch.randn, dtype=getattr(torch, dtype))
    adapters = [(random(RANK, weight.shape[1]), random(weight.shape[0], RANK)) for weight in weights]
    steps: Steps = []
    with torch.no_grad():
        for examples in _examples(data, tokenizer, num_steps):
            mine = examples[rank::ranks]
            shared = _num_shared(mine)
            num_rows = sum(len(tokens) for tokens, _ in mine) - shared * (len(mine) - 1)
            wide = {width: random(num_rows, width) for weight in weights for width in weight.shape}
            low = random(num_rows, RANK)
            trained = sum(len(tokens) - prompt for tokens, prompt in mine)
            last, grad_logits = random(trained, head.shape[1]), random(trained, head.shape[0])
            attended = [
                (
                    random(num_heads, own * (own + 2 * seen) // (2 * (own + seen)), size),
                    random(num_heads, own + seen, size),
                )
                for own, seen in [(shared, 0)] * bool(shared) + [(len(tokens) - shared, shared) for tokens, _ in mine]
            ]
            squares = [random(num_heads, query.shape[1], key.shape[1]) for query, key in attended]
            torch.distributed.barrier()
            started = time.perf_counter()
            for layer in range(num_layers):
                for index, (weight, (lora_a, lora_b)) in enumerate(zip(weights, adapters, strict=True)):
                    x, grad = wide[weight.shape[1]], wide[weight.shape[0]]
                    linear(x, weight), linear(x, lora_a), linear(low, lora_b)
                    grad @ lora_b, grad.t() @ low, low.t() @ x
                    if layer or index > 2:
                        grad @ weight, low @ lora_a
                for (query, key), square in zip(attended, squares, strict=True):
                    query @ key.transpose(1, 2), square @ key, query @ key.transpose(1, 2)
                    square @ key, square.transpose(1, 2) @ query, square.transpose(1, 2) @ query
            linear(last, head), grad_logits @ head
            torch.distributed.barrier()
            steps.append((time.perf_counter() - started, sum(len(tokens) - prompt for tokens, prompt in examples)))
    return steps


RUN = {"snake_dist": snake_dist, "trl": trl, "trl_packed": trl_packed, "bare": bare, "bound": bound}


def _num_shared(examples: list[tuple[list[int], int]]) -> int:
    """Return the tokens with which all prompts begin, which this toolkit computes once."""
    from snake_dist.data.packing import Example, shared_prefix_length

    return shared_prefix_length([Example(np.array(tokens), prompt) for tokens, prompt in examples])


def _base_and_tokenizer(dtype: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from snake_dist.model import smollm2

    directory = smollm2.convert()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    return model, AutoTokenizer.from_pretrained(directory)


def _examples(data: str, tokenizer: Any, num_steps: int) -> list[list[tuple[list[int], int]]]:
    """For each step (token ids, number of prompt tokens) of the examples of all ranks: random lines, as the
    others draw them."""
    import json
    import random

    lines = Path(data).read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)
    per_step = EXAMPLES_PER_RANK * int(os.environ["WORLD_SIZE"])
    encoded = []
    for line in lines[: num_steps * per_step]:
        record = json.loads(line)
        prompt = tokenizer(record["prompt"])["input_ids"]
        completion = tokenizer(record["completion"])["input_ids"]
        encoded.append((prompt + completion + [tokenizer.eos_token_id], len(prompt)))
    return [encoded[step * per_step : (step + 1) * per_step] for step in range(num_steps)]
