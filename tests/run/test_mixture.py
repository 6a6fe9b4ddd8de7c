"""A run over a mixture of sources: each gives its share, and a resumed run ends as the untouched one."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from snake_dist.errors import InputError
from tests.support.ranks import run_on_ranks
from tests.support.runs import adapter_tensors, logged, tiny_flags, uneven_data
from tests.support.tiny_models import tiny_llama


def finetune_each(argvs: list[list[str]]) -> tuple[list[Any], str]:
    """On a rank: the summary of each run, or why it was refused, and what they printed."""
    from snake_dist.run.config import parse_run_config
    from snake_dist.run.finetune import finetune

    outcomes: list[Any] = []
    with redirect_stdout(io.StringIO()) as out:
        for argv in argvs:
            try:
                outcomes.append(finetune(parse_run_config(argv)))
            except InputError as problem:
                outcomes.append(str(problem))
    return outcomes, out.getvalue()


def test_a_mixture_is_shown_kept_and_resumed_to_the_bit(tmp_path: Path) -> None:
    llama = tiny_llama(tmp_path / "llama")
    many, few = uneven_data(tmp_path / "many.jsonl"), uneven_data(tmp_path / "few.jsonl", 6)

    def flags(output: str, *words: str, **more: Any) -> list[str]:
        fixed = {"epochs": 1, "max_steps": "None", "held_out_share": 0, "save_every": 3}
        return [*tiny_flags(llama, many, tmp_path / output, **fixed | more), "--data", *words]

    weighted, checkpoint = (f"{many}=1", f"{few}=3"), tmp_path / "whole/checkpoints/step-00000003"
    argvs = [
        flags("whole", *weighted),
        flags("rest", *weighted, resume=checkpoint),
        flags("other", f"{many}=1", str(few), resume=checkpoint),
        flags("plain", str(many), str(few), resume=checkpoint),
        flags("twice", f"{many}=1", f"{few}=2", f"{few}=3"),
        [*flags("eval", str(many)), "--eval-data", f"{few}=2"],
    ]
    (whole, rest, other, plain, twice, eval_weight), out = run_on_ranks(finetune_each, 1, argvs)[0]
    # An epoch is as many examples as there are: 46, of which three in four are of the six lines in few.jsonl.
    assert whole["training"]["num_steps"] == 6
    assert "many.jsonl: 1 of 4 examples, 0.3 epochs of its 40\n" in out
    assert "few.jsonl: 3 of 4 examples, 5.67 epochs of its 6\n" in out
    assert rest["training"]["num_tokens"] == whole["training"]["num_tokens"]
    assert logged(tmp_path / "rest", "train/loss") == logged(tmp_path / "whole", "train/loss")
    tensors = adapter_tensors(tmp_path / "whole")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in adapter_tensors(tmp_path / "rest").items())
    assert "--data, weights was [[1, 40], [3, 6]], now [[1, 40], [1, 6]]" in other
    assert "--data, weights was [[1, 40], [3, 6]], now None" in plain
    assert f"--data {few}=3: no training example is of this source alone" in twice
    assert f"--eval-data {few}=2: only --data takes weights" in eval_weight
