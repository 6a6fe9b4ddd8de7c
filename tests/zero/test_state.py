"""What is gathered from an engine and set into a new one is the same to the bit, for all of DeepSpeed's optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snake_dist.errors import InputError
from snake_dist.model import adapters, base
from snake_dist.zero.config import build_ds_config
from snake_dist.zero.engine import start_engine, take_step
from snake_dist.zero.state import gather_state, load_masters, load_state
from tests.support.ranks import run_on_ranks
from tests.support.tiny_models import tiny_llama

CASES = [
    (stage, dtype, offload)
    for stage in (0, 1, 2, 3)
    for dtype in ("float32", "bfloat16")
    for offload in ((False, True) if stage else (False,))
]


def config_of(stage: int, dtype: str, offload: bool) -> dict[str, Any]:
    config = build_ds_config(stage)
    # Below the threshold ZeRO-3 leaves parameters whole: take some apart, leave others.
    config["zero_optimization"] |= {"stage3_param_persistence_threshold": 100, "stage3_prefetch_bucket_size": 100}
    config |= {"train_micro_batch_size_per_gpu": 2, "gradient_clipping": 1.0, "steps_per_print": 10**9}
    config["bf16"]["enabled"], config["fp16"]["enabled"] = dtype == "bfloat16", False
    config["optimizer"]["params"]["lr"] = 1e-2
    if offload:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    return config


def new_model(model_dir: str, dtype: str) -> Any:
    import torch

    torch.manual_seed(0)
    # An odd rank on odd widths: nothing divides by two ranks.
    return adapters.attach(base.load_base(model_dir, dtype), adapters.AdapterConfig(rank=3, dropout=0.0))


def steps(engine: Any, numbers: range) -> list[float]:
    import torch

    losses = []
    for number in numbers:
        generator = torch.Generator().manual_seed(10 * number + torch.distributed.get_rank())
        ids = torch.randint(0, 250, (2, 9), generator=generator)
        loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
        engine.backward(loss)
        take_step(engine)
        losses.append(float(loss.detach()))
    return losses


def round_trips(model_dir: str) -> dict[str, list[str]]:
    """Case -> what differs between an engine that went on and a new one that took over its state."""
    from snake_dist.cluster.world import start_process_group, world_from_environment

    start_process_group(world_from_environment())
    differences: dict[str, list[str]] = {}
    states = {}
    for stage, dtype, offload in CASES:
        model, config = new_model(model_dir, dtype), config_of(stage, dtype, offload)
        engine = start_engine(model, config)
        steps(engine, range(3))
        tensors, numbers = gather_state(engine)
        expected = (steps(engine, range(3, 6)), gather_state(engine))
        engine.destroy()

        model = new_model(model_dir, dtype)
        load_masters(model, tensors)
        engine = start_engine(model, config)
        load_state(engine, tensors, numbers)
        found = [f"at once: {name}" for name in unequal((tensors, numbers), gather_state(engine))]
        if steps(engine, range(3, 6)) != expected[0]:
            found.append("losses")
        found += [f"later: {name}" for name in unequal(expected[1], gather_state(engine))]
        engine.destroy()
        differences[f"ZeRO {stage} {dtype} offload={offload}"] = found
        states[stage, dtype, offload] = (tensors, numbers)
    for stage, dtype, offload in CASES:
        # From the stage before into this one.
        tensors, numbers = states[(stage - 1) % 4, dtype, False]
        model = new_model(model_dir, dtype)
        load_masters(model, tensors)
        engine = start_engine(model, config_of(stage, dtype, offload))
        load_state(engine, tensors, numbers)
        changed = unequal((tensors, {}), (gather_state(engine)[0], {}))
        differences[f"into ZeRO {stage} {dtype} offload={offload}"] = changed
        engine.destroy()
    return differences


def unequal(one: tuple[dict, dict], other: tuple[dict, dict]) -> list[str]:
    import torch

    names = one[0].keys() | other[0].keys()
    both = one[0].keys() & other[0].keys()
    different = [name for name in names if name not in both or not torch.equal(one[0][name], other[0][name])]
    return different + ([f"{one[1]} {other[1]}"] if one[1] != other[1] else [])


@pytest.fixture(scope="module")
def odd_llama(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("odd"), intermediate_size=65)


@pytest.mark.slow
def test_every_stage_precision_and_offload_round_trips_to_the_bit(odd_llama):
    for differences in run_on_ranks(round_trips, 2, str(odd_llama)):
        assert len(differences) == 2 * len(CASES)
        assert {case: found for case, found in differences.items() if found} == {}


def test_a_state_of_another_shape_is_refused(odd_llama):
    import torch

    model = new_model(str(odd_llama), "float32")
    tensors = {f"master/{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    load_masters(model, tensors)
    name = next(iter(tensors))
    with pytest.raises(InputError, match=r"master of .* has shape \(1,\), but the model's has"):
        load_masters(model, tensors | {name: torch.zeros(1)})
    with pytest.raises(InputError, match="has shape None"):
        load_masters(model, {other: tensor for other, tensor in tensors.items() if other != name})
