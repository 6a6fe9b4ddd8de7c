"""The games of a run: in training, and at the end with their report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from snake_dist.accelerator import uncompiled
from snake_dist.checkpoint.adapter_base import AdapterOptions, describe_adapter
from snake_dist.cluster.world import agree, gather
from snake_dist.evaluation.judging.comparison import Results, judge
from snake_dist.evaluation.judging.episodes import Games, game_seeds, play_games
from snake_dist.evaluation.judging.metrics import summarize
from snake_dist.evaluation.judging.spread import Ranks, SpreadPlayer
from snake_dist.evaluation.judging.state_bank import build_bank
from snake_dist.evaluation.players.entrants import LADDER, Entrant, ladder_entrants
from snake_dist.evaluation.players.language_model import LanguageModelPlayer
from snake_dist.evaluation.players.loading import BATCH_SIZE, adapter_identity, load_model_players
from snake_dist.evaluation.players.protocol import Answer
from snake_dist.evaluation.players.trained_prompts import TrainedPrompts, with_earlier_hashes
from snake_dist.evaluation.report.numbers import flatten, write_report
from snake_dist.evaluation.report.page import write_page
from snake_dist.files import REPORT_DIR
from snake_dist.model import base
from snake_dist.model.attention import unpacked_attention
from snake_dist.model.dropout import use_shared_dropout
from snake_dist.model.fast_path import use_fast_ops
from snake_dist.run.config import RunConfig
from snake_dist.run.preparation import Run
from snake_dist.run.session import Session
from snake_dist.styles.catalog import prompt_style
from snake_dist.training.metrics import Metrics
from snake_dist.zero.config import zero_stage
from snake_dist.zero.engine import end_engine, joined_forwards, start_inference
from snake_dist.zero.parameters import frozen_bytes

if TYPE_CHECKING:
    import torch

RUN_LADDER = LADDER[:-1]
"""Heuristics that play the same games at a run's end: all but the perfect one."""
NUM_BANK_STATES = 40
SHARE_OF_WEIGHTS = 0.7
"""Weights up to this share of a GPU's free memory are not sharded to play: the rest is for the cache."""

Value = TypeVar("Value")


def _judged_games(run: Run) -> Games:
    play, board = run.config.play, run.board
    return Games(board.grid_size, board.mode, game_seeds(play.play_games), play.play_max_steps)


def write_run_report(run: Run, play: Results) -> Path:
    """Write the report beside summary.json; return its page."""
    write_report(run.output_dir / REPORT_DIR, play, _judged_games(run).settings())
    return write_page(run.output_dir / REPORT_DIR, {"run": run.output_dir})


def plays_at(config: RunConfig, step: int, num_steps: int) -> bool:
    """Return whether the evaluation after `step` steps plays: the first one since the last multiple of --play-every.
    After the last step it plays only where no games follow, or where play decides which checkpoint is the best."""
    every, since = config.play.play_every, config.training.eval_every
    if step == num_steps:
        return config.play.play_games == 0 or config.checkpoint.best_by == "play"
    return every == 0 or step // every > (step - since) // every


def games_in_training(run: Run, engine: Any, session: Session) -> Callable[[int], Metrics]:
    """Return a function of the steps done that plays --eval-games on all ranks, with the model in `engine` as it is.

    It returns `eval/play/...` of docs/metrics.md, or {} where this evaluation does not play. Training continues as if
    it had not been called.
    """
    config, board, world = run.config.play, run.board, run.world
    if not config.eval_games or board.style is None:
        return lambda _step: {}
    games = Games(board.grid_size, board.mode, game_seeds(config.eval_games, "dev"), config.play_max_steps)
    limit = run.data.training.longest_completion
    template = run.config.data.template
    player = LanguageModelPlayer(
        engine.module, run.tokenizer, board.style, limit, BATCH_SIZE[engine.device.type], template=template
    )
    model = engine.module.get_base_model()

    def play(step: int) -> Metrics:
        if not plays_at(run.config, step, run.num_steps):
            return {}
        started = time.perf_counter()
        with uncompiled(model), unpacked_attention(model), joined_forwards(engine, model) as join:

            def gathered(answers: list[tuple[int, Answer]]) -> list[list[tuple[int, Answer]]]:
                join()
                session.watch.beat()
                return gather(answers, world)

            summary = summarize(play_games(SpreadPlayer(player, world.rank, world.size, gathered), games))
        logged = {
            "games": summary["games"],
            "apples": summary["apples"],
            "legal_move_rate": summary["legal_move_rate"],
            "format_valid_rate": summary["format_valid_rate"],
            "end_shares": summary["end_shares"],
        }
        played = flatten(logged, "eval/play")
        return played | {"eval/play/seconds": time.perf_counter() - started}

    return play


def judge_run(run: Run, adapter_dir: Path, session: Session) -> Results:
    """Load the adapter afresh and play it beside its base and heuristics; all ranks play, and return the same results.

    Games that an earlier session of the run has finished are not played again. Raises Stopped; see `Session.gather`.
    """
    with judged_players(run, adapter_dir) as (loaded, join):

        def gathered(value: Value) -> list[Value]:
            join()
            return session.gather(value)

        ranks = Ranks(run.world.rank, run.world.size, gathered, partial(agree, run.world))
        return _judge(run, adapter_dir, loaded, ranks)


@contextmanager
def judged_players(run: Run, adapter_dir: Path) -> Iterator[tuple[dict[str, LanguageModelPlayer], Callable[[], None]]]:
    """Load the adapter and its base afresh; yield them and what a rank calls when it has no more to answer. Collective.

    A base that was sharded for training (ZeRO-3) is sharded again where it does not fit on each rank's device.
    """
    import torch

    from snake_dist.model.decoding import has_slots

    device = base.own_device()
    saved = describe_adapter(adapter_dir, AdapterOptions(trust_remote_code=run.config.model.trust_remote_code))
    if zero_stage(run.ds_config) < 3:
        yield load_model_players(saved, device), lambda: None
        return
    loaded = load_model_players(saved, torch.device("cpu"), plain_layers=True)
    model = loaded["adapter"].model
    fits = all(gather(fits_on(device, frozen_bytes(model)), run.world))
    if fits:
        model.to(device)
    has_slots(model.get_base_model())  # found out while the weights are whole
    if fits:
        use_shared_dropout(model)
        use_fast_ops(model)
        yield loaded, lambda: None
        return
    engine = start_inference(model, run.ds_config)
    try:
        with joined_forwards(engine, model.get_base_model()) as join:
            yield loaded, join
    finally:
        end_engine(engine)


def fits_on(device: torch.device, num_bytes: int) -> bool:
    """Whether weights of this many bytes leave room to play on this device: on a CPU they are in its memory already."""
    import torch

    return device.type == "cpu" or num_bytes <= SHARE_OF_WEIGHTS * torch.cuda.mem_get_info(device)[0]


def _judge(run: Run, adapter_dir: Path, loaded: dict[str, LanguageModelPlayer], ranks: Ranks) -> Results:
    board = run.board
    asked = f"{prompt_style(str(board.style))} prompts, {loaded['base'].max_new_tokens} tokens"
    models = [
        Entrant("base", "model", f"{run.base_location} {run.dtype}, {asked}", lambda: loaded["base"]),
        Entrant("adapter", "model", adapter_identity(adapter_dir), lambda: loaded["adapter"], base="base"),
    ]
    heuristics = [replace(each, base="base", on_bank=False) for each in ladder_entrants(models, RUN_LADDER)]
    games = _judged_games(run)
    known = with_earlier_hashes(run.data.dataset.prompt_hashes, run.config.adapter.init_adapter)
    trained = TrainedPrompts(str(board.style), run.data.dataset.prompt_hashes if known is None else known)
    bank = build_bank(games.grid_size, games.mode, NUM_BANK_STATES, is_trained=trained.hold)
    report_dir = run.output_dir / REPORT_DIR
    results, _ = judge([*models, *heuristics], games, bank, report_dir, removes_foreign_logs=True, ranks=ranks)
    results["trained_positions"] = {"adapter": known if known is None else len(known)}
    return results
