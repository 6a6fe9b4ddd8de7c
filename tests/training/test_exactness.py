"""Two real ranks, any ZeRO stage, any split into micro-batches: the same losses, gradients and adapter as one rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from snake_dist.run.finetune import finetune
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, logged, tiny_config, tiny_data

DS_CONFIGS = ROOT / "ds_configs"
# fp32 sums in another order: measured differences stay below 2e-6 of losses of about 6.
LOSS_TOLERANCE = 2e-5
TENSOR_TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("games") / "data")


@pytest.fixture(scope="module")
def reference(tmp_path_factory, llama_dir, data) -> Path:
    """One rank, ZeRO 0, one micro-batch of all 8 examples."""
    output = tmp_path_factory.mktemp("reference") / "run"
    config = tiny_config(llama_dir, data, output, ds=DS_CONFIGS / "zero0.json", micro_batch_size=8)
    run_on_ranks(finetune, 1, config)
    return output


@pytest.mark.parametrize(
    ("world_size", "stage", "micro_batch_size", "flags"),
    [
        (1, 2, 2, {}),  # accumulation 4
        (2, 0, 4, {}),
        (2, 1, 4, {}),
        (2, 2, 2, {}),  # accumulation 2
        (2, 3, 2, {}),
        (2, 2, 1, {"gradient_checkpointing": True}),
    ],
)
def test_equals_one_rank(tmp_path, llama_dir, data, reference, world_size, stage, micro_batch_size, flags):
    output = tmp_path / "run"
    checkpointing = flags.get("gradient_checkpointing", False)
    config = tiny_config(
        llama_dir, data, output, ds=DS_CONFIGS / f"zero{stage}.json", micro_batch_size=micro_batch_size
    )
    if checkpointing:
        config = with_checkpointing(config)
    summaries = run_on_ranks(finetune, world_size, config)

    assert [summary["world_size"] for summary in summaries] == [world_size] * world_size
    assert summaries[0]["packed"]
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert logged(output, metric) == pytest.approx(logged(reference, metric), abs=LOSS_TOLERANCE, rel=1e-4)
    expected = adapter_tensors(reference)
    saved = adapter_tensors(output)
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (saved[name] - tensor).abs().max() < TENSOR_TOLERANCE, name


def with_checkpointing(config):
    from dataclasses import replace

    return replace(config, model=replace(config.model, gradient_checkpointing=True))


def test_dropout_is_the_same_on_one_and_two_ranks(tmp_path, llama_dir, data):
    losses = []
    for world_size in (1, 2):
        output = tmp_path / f"run{world_size}"
        run_on_ranks(finetune, world_size, tiny_config(llama_dir, data, output, dropout=0.5))
        losses.append(logged(output, "train/loss"))
    assert losses[0] == pytest.approx(losses[1], abs=LOSS_TOLERANCE)
    plain = tmp_path / "plain"
    run_on_ranks(finetune, 1, tiny_config(llama_dir, data, plain))
    # lora_B starts at 0, so dropout shows from the second step on.
    assert losses[0][1:] != pytest.approx(logged(plain, "train/loss")[1:], abs=1e-4)


def test_last_step_may_be_smaller_than_the_batch_and_leave_ranks_without_examples(tmp_path, llama_dir, data):
    """41 training examples in batches of 40: one example for the second step, none for the other rank. Two ranks are
    given the tokens of that epoch as their budget, which ends them at the same example."""
    runs, length = {}, {"epochs": 1}
    for world_size in (1, 2):
        output = runs[world_size] = tmp_path / f"run{world_size}"
        config = tiny_config(
            llama_dir,
            data,
            output,
            global_batch_size=40,
            micro_batch_size=20,
            max_steps=None,
            sequence_length=512,
            **length,
        )
        summary = run_on_ranks(finetune, world_size, config)[0]
        assert summary["data"]["train_examples"] % 40 != 0
        assert summary["training"]["num_steps"] == summary["data"]["train_examples"] // 40 + 1
        for name in ("num_tokens", "num_loss_tokens"):
            assert summary["training"][name] == summary["data"][name.replace("num", "train")]
        length = {"max_tokens": summary["training"]["num_tokens"]}
    assert logged(runs[2], "train/loss") == pytest.approx(logged(runs[1], "train/loss"), abs=LOSS_TOLERANCE)
    assert logged(runs[2], "train/epoch")[-1] == 1.0
