"""The tokenized data set as training sees it: memory-mapped examples, read one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from snake_dist.data.packing import Example
from snake_dist.data.sources import resolve_paths
from snake_dist.data.templates import Template
from snake_dist.data.tokenization import INDEX_DTYPE, NOT_TRAINED, tokenize
from snake_dist.files import user_cache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SEQUENCE_LENGTH = 1024


@dataclass(frozen=True)
class DataConfig:
    """Training and evaluation data."""

    data: tuple[str, ...] = ()
    """Files, directories, globs or hub:NAME; default: tail-safe BFS games, generated on first use. PATH=WEIGHT mixes
    sources: of as many examples as all weights together, each gives its weight."""
    eval_data: tuple[str, ...] = ()
    """Files, directories, globs or hub:NAME to evaluate on; default: whole games held out of --data."""
    held_out_share: float = 0.05
    """Without --eval-data, hold out this share of the games; 0: nothing."""
    max_examples: int | None = None
    """Train on this many examples, drawn by --seed; a larger draw contains a smaller one. Default: all."""
    eval_examples: int = 1000
    """Evaluate on at most this many held-out examples, drawn by --seed: evaluations do not grow with the data."""
    bad_lines: Literal["stop", "skip"] = "stop"
    """At a bad line, stop the run with its file, line and reason, or skip the line and count it."""
    columns: tuple[str, ...] = ()
    """KEY=COLUMN: read this column of the data as that key of its form, as prompt=question completion=answer."""
    template: Template = "plain"
    """What stands around a prompt: nothing but a line break, the headings Instruction and Response, or the turns of the
    tokenizer's own chat template."""
    sequence_length: int | None = None
    """Most tokens of an example; a longer one is a bad line. Default: 1024, or the model's limit if lower."""


class TokenizedDataset:
    """Examples by id, 0 <= id < len, read from disk on use."""

    def __init__(self, directory: Path) -> None:
        """Open what `tokenization.tokenize` wrote into `directory`."""
        self.directory = directory
        self.meta: dict[str, Any] = json.loads((directory / "meta.json").read_text())
        self._tokens = np.memmap(directory / "tokens.bin", dtype=np.uint32, mode="r")
        self._index = np.memmap(directory / "index.bin", dtype=INDEX_DTYPE, mode="r")
        self._prompt_hashes = np.memmap(directory / "prompt_hashes.bin", dtype=np.uint64, mode="r")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, example: int) -> Example:
        start = self._index["end"][example - 1] if example else 0
        stored = self._tokens[start : self._index["end"][example]].astype(np.int64)
        num_prompt_tokens = int(self._index["num_prompt_tokens"][example])
        is_skipped = stored >= NOT_TRAINED
        if not is_skipped.any():
            return Example(stored, num_prompt_tokens)
        return Example(stored % NOT_TRAINED, num_prompt_tokens, is_skipped)

    @property
    def num_lines(self) -> int:
        """Return the number of lines that were read, bad ones included, blank ones not."""
        return len(self) + sum(self.meta["skipped_lines"].values())

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of all tokens, prompt lengths and games."""
        return self.meta["fingerprint"]

    @property
    def style(self) -> str | None:
        """Return the style that every line names, if all name the same."""
        styles = self.meta.get("styles", ())  # not in what was tokenized before lines named theirs
        return styles[0] if len(styles) == 1 else None

    @property
    def largest_token(self) -> tuple[int, str]:
        """Return the highest token id and the file:line of the first example that holds it."""
        largest = self.meta["largest_token"]
        return largest["id"], self.place(largest["example"])

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens of each example, int32 [examples]; mapped, not read."""
        return self._index["num_tokens"]

    @property
    def num_loss_tokens(self) -> np.ndarray:
        """Return the trained tokens of each example, int32 [examples]; mapped, not read."""
        return self._index["num_loss_tokens"]

    @property
    def prompt_hashes(self) -> np.ndarray:
        """Return `tokenization.hash_prompt` of every line's prompt, uint64, sorted; mapped, not read."""
        return self._prompt_hashes

    def games(self) -> list[str]:
        """Read the key of every game."""
        return json.loads((self.directory / "games.json").read_text())

    def index_blocks(self, num_rows: int) -> Iterator[np.ndarray]:
        """Read the index (`tokenization.INDEX_DTYPE`) from first to last, `num_rows` at a time."""
        with (self.directory / "index.bin").open("rb") as file:
            while len(rows := np.fromfile(file, dtype=INDEX_DTYPE, count=num_rows)):
                yield rows

    @property
    def forms(self) -> dict[str, tuple[str | None, int]]:
        """Return file -> (the form of its lines, how many of them are examples); None: none is usable."""
        meta = self.meta
        return dict(zip(meta["files"], zip(meta["forms"], meta["file_sizes"], strict=True), strict=True))

    def place(self, example: int) -> str:
        """Return the file:line of the example."""
        return f"{self.meta['files'][self._index['file'][example]]}:{self._index['line'][example]}"


def dataset_cache() -> Path:
    """Return this user's directory of tokenized data sets."""
    return user_cache() / "datasets"


def open_dataset(
    patterns: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "plain",
    columns: tuple[str, ...] = (),
    bad_lines: str,
    for_training: bool,
    cache: Path,
) -> TokenizedDataset:
    """Return the data set of these files, directories and globs; tokenize it unless `cache` has it."""
    paths = resolve_paths(patterns)
    return TokenizedDataset(
        tokenize(
            paths,
            tokenizer,
            template=template,
            columns=columns,
            bad_lines=bad_lines,
            for_training=for_training,
            cache=cache,
        )
    )
