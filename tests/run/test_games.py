"""Games at each evaluation: they show the model as it is, and training continues as if there were none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from snake_dist.checkpoint.checkpoints import best_checkpoint, verify
from snake_dist.evaluation.judging.episodes import Games, game_seeds, play_games
from snake_dist.evaluation.judging.metrics import summarize
from snake_dist.evaluation.players.loading import load_player
from snake_dist.game.rules import legal_moves, new_game, step
from snake_dist.model.attention import unpacked_attention
from snake_dist.run.config import parse_run_config
from snake_dist.run.finetune import finetune
from snake_dist.run.games import fits_on, plays_at
from snake_dist.styles.catalog import render_prompt
from tests.support.processes import ROOT
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, tiny_config, train_each
from tests.support.tiny_models import tiny_llama

GAMES, MAX_STEPS = 3, 4
# ZeRO-3 keeps small parameters whole, which hides faults: take the base's matrices apart.
TAKEN_APART = {"stage": 3, "stage3_param_persistence_threshold": 3000}
ZERO = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": TAKEN_APART,
    "offload": TAKEN_APART | {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    """Runs that soon reply `Move: UP` or `Move: RIGHT`, of different lengths, and so play a few moves."""
    folder = tmp_path_factory.mktemp("games")
    llama = tiny_llama(folder / "llama", hidden_size=64, intermediate_size=72, initializer_range=0.2)
    lines = []
    for seed in range(24):
        state = new_game(5, seed, "classic")
        for _ in range(2):
            reply = "Move: UP" if state.apple[0] <= state.body[-1][0] else "Move: RIGHT"
            lines.append({"prompt": render_prompt(state, "compact"), "completion": reply})
            state = step(state, sorted(legal_moves(state))[0])
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(name: str, zero: dict, **flags):
        ds = folder / f"{name}.json"
        ds.write_text(json.dumps({"zero_optimization": zero}))
        defaults = {"rank": 8, "max_steps": 10, "eval_every": 8, "dropout": 0.1, "save_every": 0}
        defaults |= {
            "eval_games": GAMES,
            "play_every": 0,
            "play_max_steps": MAX_STEPS,
            "style": "compact",
            "grid_size": 5,
        }
        return tiny_config(llama, data, folder / name, ds=ds, **defaults | flags)

    return make


@pytest.mark.parametrize(
    "stage", ["zero2", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("zero0", "zero3", "offload"))]
)
def test_games_in_training_are_those_of_the_model_that_is_saved(make_config, stage):
    config = make_config(
        f"{stage}-saved", ZERO[stage], save_every=4, keep_checkpoints=1, best_by="play", eval_examples=7
    )
    summary = run_on_ranks(finetune, 2, config)[0]
    assert summary["data"]["eval_examples"] == 7
    player = load_player(summary["adapter_dir"])
    episodes = play_games(player, Games(5, "classic", game_seeds(GAMES, "dev"), MAX_STEPS))
    played = summarize(episodes)
    output = Path(str(config.output.output_dir))
    assert played["steps"]["mean"] > 1
    for metric in ("apples/mean", "legal_move_rate/value", "format_valid_rate/value"):
        name, _, leaf = metric.partition("/")
        assert logged(output, f"eval/play/{metric}")[-1] == played[name][leaf], metric
    assert len(logged(output, "eval/play/apples/mean")) == len(logged(output, "eval/loss")) == 2
    best = best_checkpoint(output, "play")
    assert best is not None
    assert verify(best).numbers["play_apples"] == max(logged(output, "eval/play/apples/mean"))
    check_names_are_documented(output / "metrics.jsonl")


def check_names_are_documented(metrics: Path):
    """Every name in the log but those of `play.` in summary.json, which are defined by their path there."""
    documented = re.findall(r"`([a-z]+/[^`*]+)`", (ROOT / "docs/metrics.md").read_text(encoding="utf-8"))
    patterns = [re.escape(name).replace("_R", "_[0-9]+").replace("REASON", "[a-z_]+") for name in documented]
    names = {name for line in metrics.read_text().splitlines() for name in json.loads(line)} - {"step"}
    unknown = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert not [name for name in unknown if not name.startswith("play/")]


def test_steps_after_which_an_evaluation_plays():
    def played(flags: str, num_steps: int = 1000) -> list[int]:
        config = parse_run_config(flags.split())
        every = config.training.eval_every
        return [s for s in range(every, num_steps + 1, every) if plays_at(config, s, num_steps)]

    assert played("--eval-every 50", 1600) == [500, 1000, 1500]
    assert played("--eval-every 50 --play-games 0") == [500, 1000]
    assert played("--eval-every 50 --best-by play") == [500, 1000]
    assert played("--eval-every 300 --play-every 500", 2100) == [600, 1200, 1500]
    assert played("--eval-every 300 --play-every 0", 1200) == [300, 600, 900]
    assert played("--eval-every 50", 100) == []


def test_training_goes_on_as_if_no_game_had_been_played(make_config):
    check_bits(make_config, "lora", ["zero2", "zero3"])


def test_ranks_may_make_different_numbers_of_forward_passes(make_config):
    first, second = run_on_ranks(forward_unequally, 2, make_config("unequal", ZERO["zero3"], eval_games=0))
    assert first[0] == second[-1], "the same token, the same logits: with all weights gathered"
    assert (len(first), len(second)) == (1, 4)


def forward_unequally(config):
    """On a rank: 1 forward pass on rank 0 and 4 on rank 1; the sum of each one's logits."""
    import torch

    from snake_dist.cluster.world import world_from_environment
    from snake_dist.run.preparation import prepare
    from snake_dist.run.training import load_model
    from snake_dist.zero.engine import joined_forwards, start_engine

    run = prepare(config, world_from_environment())
    engine = start_engine(load_model(run)[0].eval(), run.ds_config)
    model, sums = engine.module.get_base_model(), []
    with unpacked_attention(model), joined_forwards(engine, model) as join, torch.no_grad():
        for token in [7] if run.world.is_main else [4, 5, 6, 7]:
            sums.append(model(input_ids=torch.tensor([[1, token]]), use_cache=False).logits.sum().item())
        join()
        join()
    return sums


def judged(configs):
    """On a rank: the games of two runs' judges, and the bytes of the base held; the second one's fits nowhere."""
    from unittest.mock import patch

    from snake_dist.evaluation.judging import comparison
    from snake_dist.run import games
    from snake_dist.zero.parameters import frozen_bytes

    held, played = [], []

    def judge(entrants, *args, **options):
        held.append(frozen_bytes(entrants[0].load().model))
        return comparison.judge(entrants, *args, **options)

    for config, fits in zip(configs, (True, False), strict=True):
        with patch.object(games, "fits_on", lambda *_, fits=fits: fits), patch.object(games, "judge", judge):
            played.append(finetune(config)["play"])
    return played, held


def test_weights_are_sharded_for_play_where_a_gpu_would_have_no_room_beside_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1000, 2000))
    assert [fits_on(torch.device("cuda"), size) for size in (700, 701)] == [True, False]
    assert fits_on(torch.device("cpu"), 10**15), "where they are already"


@pytest.mark.parametrize("adapter", ["lora", pytest.param("qlora", marks=pytest.mark.slow)])
def test_a_base_that_does_not_fit_is_judged_sharded(make_config, adapter):
    """The same games as unsharded, with less of the base on each rank."""
    flags = {"adapter": adapter, "eval_games": 0, "play_games": 4}
    configs = [make_config(f"judged-{adapter}-{name}", ZERO["zero3"], **flags) for name in ("whole", "sharded")]
    (whole, sharded), (whole_bytes, sharded_bytes) = run_on_ranks(judged, 2, configs)[0]
    for player in [*whole["players"].values(), *sharded["players"].values()]:
        del player["ms_per_move"], player["moves_per_second"]
    assert sharded == whole
    assert whole["players"]["adapter"]["ends"] != whole["players"]["base"]["ends"]
    assert sharded_bytes < 0.7 * whole_bytes


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "qlora", "adalora", "pissa", "dora"])
def test_training_goes_on_as_if_no_game_had_been_played_in_every_cell(make_config, adapter):
    for stages in (["zero0", "zero1", "zero2"], ["zero3", "offload"]):
        check_bits(make_config, adapter, stages, base_dtype="bfloat16")


def check_bits(make_config, adapter, stages, **flags):
    configs = []
    for stage in stages:
        for name, games in (("plays", GAMES), ("silent", 0)):
            options = {"adapter": adapter, "eval_games": games, **flags}
            configs.append(make_config(f"{adapter}-{len(stages)}-{stage}-{name}", ZERO[stage], **options))
    outcomes = run_on_ranks(train_each, 2, configs)[0]
    for stage, (plays, tensors), (silent, expected) in zip(stages, outcomes[::2], outcomes[1::2], strict=True):
        assert len(plays["eval/play/apples/mean"]) == 2
        assert "eval/play/apples/mean" not in silent
        for metric in ("train/loss", "train/grad_norm", "eval/loss"):
            assert plays[metric] == silent[metric], (stage, metric)
        for name, tensor in expected.items():
            assert np.array_equal(tensors[name], tensor), (stage, name)
