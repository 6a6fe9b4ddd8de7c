"""launcher/plan.py as users type it: what it prints, what it writes, what bad input gets."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from dataclasses import replace

import pytest
from transformers import GptOssConfig, LlamaConfig

from snake_dist.model.adapters import AdapterConfig
from snake_dist.model.base import ModelConfig, load_base
from snake_dist.planning.model_sizes import describe_model
from snake_dist.zero.config import fill_ds_config, read_ds_config
from snake_dist.zero.parameters import frozen_bytes
from tests.support.processes import ROOT
from tests.support.runs import RUN_VALUES
from tests.support.tiny_models import SHAPES, tiny_llama, tiny_model


def plan(*flags: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the launcher, run in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["plan.py", *map(str, flags)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(ROOT / "launcher/plan.py"), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory):
    """A configuration and nothing else: no weights, no tokenizer."""
    directory = tmp_path_factory.mktemp("llama-8b")
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ).save_pretrained(directory)
    return directory


def test_the_plan_of_an_8b_model_needs_its_configuration_only(llama_8b, tmp_path):
    written = tmp_path / "ds.json"
    flags = ("--base-model", llama_8b, "--adapter", "qlora", "--gpus", 8, "--gpu-memory", "24GiB")
    code, out, err = plan(*flags, "--examples", 100_000, "--write-ds", written)
    assert code == 0, err
    for said in (
        "8,030,261,248 in the base",
        "41,943,040 trainable",
        "5.311 GiB in NF4",
        "recommended: ZeRO 2",
        "hours",
    ):
        assert said in out
    ds_config = read_ds_config(str(written))
    assert ds_config["zero_optimization"]["stage"] == 2
    assert ds_config["zero_optimization"]["reduce_bucket_size"] == 41_943_040
    values = replace(RUN_VALUES, global_batch_size=32, accumulation=1, world_size=8)
    assert '"auto"' not in json.dumps(fill_ds_config(ds_config, values, hidden_size=4096))


def test_a_base_too_large_for_one_gpu_is_sharded(llama_8b, tmp_path):
    written = tmp_path / "ds.json"
    code, out, _ = plan("--base-model", llama_8b, "--gpus", 8, "--gpu-memory", "14GiB", "--write-ds", written)
    assert code == 0
    assert "recommended: ZeRO 3" in out
    assert "base, forward" in out
    assert read_ds_config(str(written))["zero_optimization"]["stage"] == 3


def test_a_given_file_is_planned_as_it_is(llama_8b, tmp_path):
    """DeepSpeed's default buckets, 5e8 elements in bf16, twice where it overlaps, and the one of our files."""
    bare = tmp_path / "zero2.json"
    bare.write_text('{"zero_optimization": {"stage": 2, "overlap_comm": true}}')
    for file, elements in ((bare, 2 * 5e8), (ROOT / "ds_configs/zero2.json", 5e7)):
        code, out, err = plan("--base-model", llama_8b, "--gpus", 8, "--ds", file)
        assert code == 0, err
        [buckets] = [line.split() for line in out.splitlines() if line.startswith("gradient buckets")]
        assert float(buckets[-1]) == pytest.approx(elements * 2 / 2**30, abs=0.01)


def test_lengths_and_hours_come_from_the_data(llama_dir, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "12345678", "completion": "1234567"}\n' * 3600)
    flags = ("--base-model", llama_dir, "--data", tmp_path / "data.jsonl", "--micro-batch-size", 1)
    code, out, err = plan(*flags, "--tokens-per-s", 16, "--save-every", 0)
    assert code == 0, err
    longest = int(out.split("examples of at most ")[1].split()[0])
    assert longest in (16, 17)  # with its end of sequence, and perhaps a space between
    hours = float(out.rsplit(" hours", 1)[0].split()[-1])
    # At 16 tokens/s an example takes a second; DATA_S is added for reading it.
    assert hours == pytest.approx(longest / 16 + 0.002, abs=0.02)


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_counted_parameters_are_the_real_ones(tmp_path, family):
    directory = tiny_model(tmp_path / family, family)
    model = load_base(str(directory), "float32")
    sizes = describe_model(ModelConfig(base_model=str(directory)), AdapterConfig(rank=4))
    assert sizes.num_base == sum(parameter.numel() for parameter in model.parameters())
    assert sizes.num_layers == 2
    assert all(linear.adapted for linear in sizes.linears)
    assert sizes.num_trainable == 2 * sum(4 * (linear.inputs + linear.outputs) for linear in sizes.linears)


def test_four_bit_bytes_are_those_of_bitsandbytes(tmp_path):
    """To the byte: numbers, scales, scales of scales, code tables."""
    from snake_dist.planning.shapes import Setup, base_bytes

    directory = tiny_llama(tmp_path / "model", hidden_size=256, intermediate_size=704)
    held = frozen_bytes(load_base(str(directory), "bfloat16", quantization="nf4").requires_grad_(False))
    sizes = describe_model(ModelConfig(base_model=str(directory)), AdapterConfig(adapter="qlora"))
    assert base_bytes(sizes, Setup(0, 1, nf4=True)) == held


BAD_INPUT = {
    "unit": (["--gpu-memory", "24GX"], "24GX", "GiB"),
    "nothing left": (["--gpu-memory", "1GiB"], "1GiB", "--reserve"),
    "model": (["--base-model", "no/such-model"], "no/such-model", "smollm2-135m"),
    "gpus": (["--gpus", "0"], "0", "at least 1"),
    "batch": (["--gpus", "8", "--global-batch-size", "4"], "4", "the number of ranks, 8"),
    "adapter": (["--adapter", "lroa"], "lroa", "rslora"),
    "targets": (["--target-modules", "w_q"], "w_q", "q_proj"),
    "rank": (["--target-rank", "4"], "4", "only adalora"),
    "stage": (["--ds", "stage.json"], "'3'", "choose from 0, 1, 2, 3"),
    "offload": (["--ds", "offload.json"], "offload_param", "needs stage 3"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line(tmp_path, monkeypatch, llama_dir, name):
    flags, value, allowed = BAD_INPUT[name]
    (tmp_path / "stage.json").write_text('{"zero_optimization": {"stage": "3"}}')
    (tmp_path / "offload.json").write_text('{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}')
    flags = [str(tmp_path / flag) if flag.endswith(".json") else flag for flag in flags]
    base = [] if name == "model" else ["--base-model", llama_dir]
    monkeypatch.setenv("RANK", "0")
    code, out, err = plan(*base, *flags)
    assert (code, out) == (2, "")
    errors = [line for line in err.splitlines() if line.strip()]
    assert len(errors) == 1, err
    assert value in errors[0]
    assert allowed in errors[0]


def test_layers_that_are_not_plain_are_refused(tmp_path):
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_local_experts": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}
    GptOssConfig(architectures=["GptOssForCausalLM"], **shape, **heads).save_pretrained(tmp_path)
    code, _, err = plan("--base-model", tmp_path)
    assert code == 2
    assert "gpt_oss" in err
