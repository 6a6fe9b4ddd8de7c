"""The examples of a run: the user's files, or a default data set, generated once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from snake_dist.cluster.world import World, agree
from snake_dist.data.dataset import DEFAULT_SEQUENCE_LENGTH, DataConfig, TokenizedDataset, dataset_cache, open_dataset
from snake_dist.data.game_keys import UNKNOWN_BLOCK_LINES
from snake_dist.data.generation import generate
from snake_dist.data.generation_config import GenerationConfig
from snake_dist.data.selection import NOTHING, Selection, Split, draw, select
from snake_dist.data.sources import resolve_paths
from snake_dist.errors import InputError
from snake_dist.files import SUMMARY
from snake_dist.run.board import Board
from snake_dist.run.config import RunConfig
from snake_dist.styles.catalog import STYLES, teacher_on

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

# The default data set: about 850 positions of many games, for a run of minutes on two cores. They are of the first 50
# moves, since a model that has never seen a short snake never gets a long one; some moves are not the teacher's.
DEFAULT_GAMES = 200
DEFAULT_LINE_RATE = 0.088
DEFAULT_MAX_STEPS_PER_GAME = 50
DEFAULT_STYLE = "compact"
DEFAULT_RANDOM_MOVE_RATE = 0.1

NO_SHARE = "--held-out-share 0"
"""Why a run that was asked to hold nothing out does so; it warns before it reads the data."""


class DataSummary(TypedDict):
    """Counts and fingerprints of a run's examples: `num_lines` is `train_examples`, `eval_examples` and all of
    `skipped_lines` together."""

    fingerprint: str
    eval_fingerprint: str
    files: list[str]
    """All that were read, those of --eval-data after those of --data."""
    forms: list[tuple[str | None, int]]
    """Of each file the form of its lines, and how many are examples; None: none is usable."""
    passed_over: list[str]
    """What lies below --data and --eval-data and is no data file."""
    num_lines: int
    """Lines of the files that are not blank."""
    train_examples: int
    eval_examples: int
    train_tokens: int
    train_loss_tokens: int
    skipped_lines: dict[str, int]
    """Lines that the run neither trains on nor is judged by, by reason."""
    why_none_held_out: str | None
    """Why `eval_examples` is 0; None otherwise."""
    own_special_tokens: dict[str, int]
    """Lines that bear a special token which training adds itself, by token and place: it stands there once."""


@dataclass(frozen=True)
class RunData:
    """Training and held-out examples, the same on every rank."""

    dataset: TokenizedDataset
    training: Selection
    """Of `dataset`."""
    eval_dataset: TokenizedDataset
    held_out: Selection
    """Of `eval_dataset`."""
    left_out: Counter[str]
    """Good lines that neither of the two has, by reason."""
    passed_over: list[str]
    """What lies below --data and --eval-data and is no data file."""
    why_none_held_out: str | None
    """None if there are held-out examples."""

    @property
    def train_examples(self) -> np.ndarray:
        """Ids in `dataset`."""
        return self.training.ids

    @property
    def eval_examples(self) -> np.ndarray:
        """Ids in `eval_dataset`."""
        return self.held_out.ids

    @property
    def skipped_lines(self) -> dict[str, int]:
        """Lines that are neither trained on nor held out, by reason."""
        return self._summed("skipped_lines") | self.left_out

    def _summed(self, name: str) -> dict[str, int]:
        return dict(sum((Counter(dataset.meta[name]) for dataset in self._datasets), Counter()))

    @property
    def _datasets(self) -> list[TokenizedDataset]:
        return [self.dataset, *([] if self.eval_dataset is self.dataset else [self.eval_dataset])]

    def check_vocabulary(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int | None) -> None:
        """Raise InputError if an example holds a token for which a model of this vocabulary has no embedding."""
        for dataset in self._datasets:
            largest, place = dataset.largest_token
            if vocab_size is not None and largest >= vocab_size:
                token = tokenizer.convert_ids_to_tokens(largest)
                raise InputError(
                    f"{place}: token {largest}, {token!r}: the model has {vocab_size} embeddings, its tokenizer "
                    f"{len(tokenizer)} tokens: take the tokenizer that the model came with, or leave that token out"
                )

    def described(self) -> DataSummary:
        return {
            "fingerprint": self.dataset.fingerprint,
            "eval_fingerprint": self.eval_dataset.fingerprint,
            "files": [file for dataset in self._datasets for file in dataset.meta["files"]],
            "forms": [form for dataset in self._datasets for form in dataset.forms.values()],
            "passed_over": self.passed_over,
            "num_lines": sum(dataset.num_lines for dataset in self._datasets),
            "train_examples": len(self.train_examples),
            "eval_examples": len(self.eval_examples),
            "train_tokens": self.training.num_tokens,
            "train_loss_tokens": self.training.num_loss_tokens,
            "skipped_lines": self.skipped_lines,
            "why_none_held_out": self.why_none_held_out,
            "own_special_tokens": self._summed("own_special_tokens"),
        }


def default_generation(board: Board, seed: int) -> GenerationConfig:
    """Return the configuration of this board's default data set."""
    name = board.style or DEFAULT_STYLE
    style = STYLES[name]
    return GenerationConfig(
        policy=teacher_on(name, board.grid_size, board.mode),
        grid_size=board.grid_size,
        mode=board.mode,
        style=name,
        games=DEFAULT_GAMES,
        line_rate=DEFAULT_LINE_RATE,
        max_steps_per_game=DEFAULT_MAX_STEPS_PER_GAME,
        random_move_rate=0.0 if style.on_cycle else DEFAULT_RANDOM_MOVE_RATE,
        seed=seed,
    )


def default_data_dir(config: GenerationConfig) -> Path:
    """Return that data set's directory below the working directory, named by its content."""
    digest = hashlib.sha256(json.dumps([version("snake_dist"), asdict(config)]).encode()).hexdigest()[:8]
    stamp = f"heuristics_v0.04_default-{digest}"
    return Path("logs/extensions/datasets").absolute() / f"grid-size-{config.grid_size}" / stamp / config.policy


def prepare_data(
    config: RunConfig,
    world: World,
    board: Board,
    tokenizer: PreTrainedTokenizerBase,
    max_positions: int | None,
) -> RunData:
    """Generate (without --data), tokenize and split: the first rank of each node writes the files, all ranks map them.

    `max_positions`: longest input of the model, if it has a limit. Raises InputError, on all ranks alike, for bad data.
    """
    patterns = config.data.data or agree(
        world, partial(_default_data, default_generation(board, config.training.seed)), on_each_node=True
    )
    opened = partial(
        open_dataset,
        tokenizer=tokenizer,
        template=config.data.template,
        columns=config.data.columns,
        bad_lines=config.data.bad_lines,
        cache=dataset_cache(),
    )

    def prepare() -> RunData:
        dataset = opened(patterns, for_training=True)
        length = _sequence_length(config, max_positions)
        why_none = _why_none_held_out(config.data, dataset)
        if config.data.eval_data:
            (training,) = select(dataset, length, config.data.bad_lines)
            eval_dataset = opened(config.data.eval_data, for_training=False)
            (held_out,) = select(eval_dataset, length, config.data.bad_lines)
        else:
            eval_dataset = dataset
            if why_none:
                training, held_out = *select(dataset, length, config.data.bad_lines), NOTHING
            else:
                split = Split(config.data.held_out_share, config.training.seed)
                training, held_out = select(dataset, length, config.data.bad_lines, split)
        left_out = Counter({"longer than --sequence-length": training.num_too_long + held_out.num_too_long})
        if config.data.max_examples is not None:
            left_out["beyond --max-examples"] = len(training.ids) - config.data.max_examples
            training = draw(dataset, training, config.data.max_examples, config.training.seed)
        if config.data.eval_examples < len(held_out.ids):
            left_out["held out, beyond --eval-examples"] = len(held_out.ids) - config.data.eval_examples
            held_out = draw(eval_dataset, held_out, config.data.eval_examples, config.training.seed)
        passed_over: list[str] = []
        resolve_paths([*patterns, *config.data.eval_data], passed_over)
        return RunData(dataset, training, eval_dataset, held_out, left_out, passed_over, why_none)

    agree(world, lambda: prepare() and None, on_each_node=True)
    return prepare()


def _why_none_held_out(config: DataConfig, dataset: TokenizedDataset) -> str | None:
    """Return why the run is judged by no held-out example; None if there are some."""
    if config.eval_data:
        return None
    if config.held_out_share == 0:
        return NO_SHARE
    if dataset.meta["num_games"] == 1:
        return f"the data is of one game (without game_id {UNKNOWN_BLOCK_LINES} lines in a row count as one)"
    return None


def _default_data(config: GenerationConfig) -> tuple[str, ...]:
    directory = default_data_dir(config)
    if not (directory / SUMMARY).is_file():
        try:
            generate(config, directory)
        except InputError:
            # On a shared disk another node may have written the same content first.
            if not (directory / SUMMARY).is_file():
                raise
    return (str(directory),)


def _sequence_length(config: RunConfig, max_positions: int | None) -> int:
    given = config.data.sequence_length
    if given is None:
        return min(DEFAULT_SEQUENCE_LENGTH, max_positions or DEFAULT_SEQUENCE_LENGTH)
    if max_positions is not None and given > max_positions:
        raise InputError(f"--sequence-length {given}: this model takes at most {max_positions} tokens")
    return given
