"""AdaLoRA on two ranks under every ZeRO stage is what PEFT alone makes of it in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data
from tests.support.tiny_models import tiny_llama

NUM_STEPS = 8
# Rank 5 on 37 inputs: sizes that two ranks do not divide.
SIZES = {"hidden_size": 40, "intermediate_size": 37, "initializer_range": 0.3}
STAGES = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "zero3": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "zero3_persistent": {"stage": 3},
    "zero3_offload": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "cpu"},
    },
}
# After 8 steps of Adam, whose first steps turn rounding in tiny gradients into differences of the rate's size.
TOLERANCE = 2e-4


def peft_alone(config):
    """Plain torch and PEFT's own update_and_allocate: (losses, {parameter: values}, rank pattern)."""
    import torch
    from peft import AdaLoraConfig, get_peft_model

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.data.packing import pad
    from snake_dist.model.base import load_base
    from snake_dist.run.preparation import prepare
    from snake_dist.training.schedule import learning_rate_at

    run = prepare(config, world_from_environment())
    model = load_base(run.base_location, "float32")
    torch.manual_seed(config.training.seed)
    model = get_peft_model(
        model,
        AdaLoraConfig(
            init_r=5,
            target_r=2,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            total_step=NUM_STEPS,
            tinit=0,
            tfinal=2,
            deltaT=1,
        ),
    ).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1.0, weight_decay=0.0)
    losses = []
    for step in range(NUM_STEPS):
        batch = pad([run.data.dataset[i] for i in run.stream.step_examples(step)])
        # Our labels say what comes next, the library's what is here.
        labels = torch.full_like(batch.input_ids_BT, -100)
        labels[batch.examples_K, batch.columns_C[batch.places_K] + 1] = batch.labels_K
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, peak=1e-2, num_steps=NUM_STEPS, warmup_share=0.05)
        loss = model(**batch.inputs, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
        losses.append((float(loss), float(norm)))
    values = {name: p.detach().tolist() for name, p in model.base_model.model.named_parameters() if p.requires_grad}
    return losses, values, model.peft_config["default"].rank_pattern


def ours(configs):
    """[(losses, {parameter: master}, {parameter: working copy}, state, adapter) of each run]."""
    import torch

    from snake_dist.checkpoint.plain_lora import adapter_start, plain_adapter
    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.preparation import prepare
    from snake_dist.run.training import load_model
    from snake_dist.training.adalora_ranks import rank_allocation
    from snake_dist.training.loop import run_steps
    from snake_dist.training.trainer import Trainer
    from snake_dist.zero.engine import start_engine
    from snake_dist.zero.parameters import gather_adapter, whole_parameter

    outcomes = []
    for config in configs:
        run = prepare(config, world_from_environment())
        model, collate = load_model(run)
        start = adapter_start(model)
        engine = start_engine(model, run.ds_config)
        allocation = rank_allocation(engine, model)
        losses = []

        def log(_, metrics, losses=losses):
            if "train/loss" in metrics:
                total = metrics["train/loss"] + 0.5 * metrics["train/orthogonality"]
                losses.append((total, metrics["train/grad_norm"]))

        trainer = Trainer(engine, run.data.dataset, run.stream, run.share, collate, config.training, allocation)
        run_steps(trainer, log=log, evaluate=lambda _step: {})
        masters = {name: whole_parameter(engine, p).tolist() for name, p in allocation.parameters.items()}
        state = {name: tensor.tolist() for name, tensor in allocation.state().items()}
        tensors = gather_adapter(model)
        plain = plain_adapter(model.peft_config["default"], tensors, start)
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == plain.shapes
        engine.destroy()
        del engine, model
        adapter = {name: tensor.tolist() for name, tensor in tensors.items()}
        outcomes.append((losses, masters, state, adapter, plain.config.rank_pattern))
        torch.distributed.barrier()
    return outcomes


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"), **SIZES)


@pytest.fixture(scope="module")
def configs(tmp_path_factory, llama):
    folder = tmp_path_factory.mktemp("adalora")
    data = tiny_data(folder / "data")
    made = {}
    for name, zero in STAGES.items():
        ds = folder / f"{name}.json"
        ds.write_text(json.dumps({"zero_optimization": zero}))
        made[name] = tiny_config(
            llama, data, folder / name, ds=ds, adapter="adalora", rank=5, target_rank=2, max_steps=NUM_STEPS
        )
    return made


@pytest.fixture(scope="module")
def reference(configs):
    from dataclasses import replace

    config = configs["zero0"]
    output = replace(config.output, output_dir=f"{config.output.output_dir}-peft")
    return run_on_ranks(peft_alone, 1, replace(config, output=output))[0]


@pytest.mark.slow
def test_every_stage_allocates_as_peft_alone(configs, reference):
    import torch

    losses, values, pattern = reference
    alive = {name: torch.tensor(mask) for name, mask in pattern.items()}
    assert sum(int(mask.sum()) for mask in alive.values()) == 2 * len(alive)
    assert len({int(mask.sum()) for mask in alive.values()}) > 1, "every module kept the same rank: nothing was moved"
    ranks = run_on_ranks(ours, 2, list(configs.values()))
    assert ranks[0] == ranks[1]
    for stage, (own_losses, masters, state, adapter, own_pattern) in zip(configs, ranks[0], strict=True):
        for own, expected in zip(own_losses, losses, strict=True):
            assert own == pytest.approx(expected, rel=1e-4), stage
        assert own_pattern == {name.replace(".default", ""): mask for name, mask in pattern.items()}, stage
        assert masters.keys() == values.keys()
        for name, value in values.items():
            own = torch.tensor(masters[name])
            assert (own - torch.tensor(value)).abs().max() < TOLERANCE, (stage, name)
            if name in alive:  # two steps after the last decision
                assert own.flatten()[~alive[name]].eq(0).all(), (stage, name)
                assert own.flatten()[alive[name]].ne(0).all(), (stage, name)
        assert {key for key in state if "mask" not in key} == set()
        check_that_the_working_copy_is_the_master(adapter, masters, alive)


def check_that_the_working_copy_is_the_master(adapter, masters, alive):
    import torch

    for name, mask in alive.items():
        saved = torch.tensor(adapter["base_model.model." + name.replace(".default", "")])
        assert torch.equal(saved.flatten(), torch.tensor(masters[name]).flatten()[mask])
