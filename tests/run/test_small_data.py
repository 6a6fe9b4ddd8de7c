"""Small data of one's own: it trains, without a held-out set where there is too little for one, and says so."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from snake_dist.checkpoint.checkpoints import best_checkpoint
from snake_dist.errors import InputError
from snake_dist.run.config import check_run_flags
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config
from tests.support.tiny_models import tiny_llama


def finetune_each(configs: list[Any]) -> tuple[list[Any], str, str]:
    """On a rank: the summaries of whole runs, one after the other, and what they printed and warned."""
    from snake_dist.run.finetune import finetune

    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        summaries = [finetune(config) for config in configs]
    return summaries, out.getvalue(), err.getvalue()


def own_lines(path: Path, number: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"q {i}", "completion": f"a {i}"}) + "\n" for i in range(number)))
    return path


def test_data_too_small_for_a_held_out_set_trains_without_one(tmp_path: Path) -> None:
    llama, hundred = tiny_llama(tmp_path / "llama"), own_lines(tmp_path / "hundred.jsonl", 100)
    two = own_lines(tmp_path / "two.jsonl", 2)
    configs = [
        tiny_config(llama, hundred, tmp_path / "one-game", held_out_share=0.05, max_steps=2, save_every=1),
        tiny_config(llama, hundred, tmp_path / "share-0", held_out_share=0, max_steps=1),
        # Three ranks, two examples: one rank has none in the only step.
        tiny_config(llama, two, tmp_path / "two", eval_data=two, max_steps="None", epochs=1),
    ]
    (one_game, share_0, more_ranks), out, err = run_on_ranks(finetune_each, 3, configs)[0]
    for summary, why in ((one_game, "the data is of one game"), (share_0, "--held-out-share 0")):
        assert summary["data"]["train_examples"] == 100
        assert summary["data"]["eval_examples"] == 0
        assert "eval/loss" not in summary["training"]
        assert f"warning: nothing is held out: {why}" in err
        assert f"held-out loss       none: {why}" in out
        assert "Held-out" not in (Path(summary["adapter_dir"]) / "README.md").read_text()
    assert best_checkpoint(tmp_path / "one-game", "loss") is None
    assert more_ranks["training"]["num_steps"] == 1
    assert more_ranks["training"]["train/loss"] == pytest.approx(more_ranks["training"]["first_loss"])
    assert more_ranks["data"]["eval_examples"] == 2


@pytest.mark.parametrize("share", ["1", "-0.1", "nan", "1.5"])
def test_an_impossible_share_is_refused_by_its_flag(share: str) -> None:
    with pytest.raises(InputError, match=f"--held-out-share {share}: from 0, which holds nothing out, to below 1"):
        check_run_flags(["--held-out-share", share], 1)
