"""Records -> token files on disk, once per data set and tokenizer; every rank then maps the same files.

A cache directory holds tokens.bin (uint32, all examples back to back), index.bin (one `INDEX_DTYPE` row per
example), prompt_hashes.bin (uint64, sorted), games.json (keys of the games) and meta.json, the only one that a run
reads whole. It is written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snake_dist.data.chat_template import Encoded
from snake_dist.data.forms import BadLine, parse_columns
from snake_dist.data.game_keys import common_root, game_keys
from snake_dist.data.records import Record, check_train_seed, read_records
from snake_dist.data.templates import Template, described_template, encode_records
from snake_dist.errors import InputError
from snake_dist.files import new_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT_VERSION = 7

NOT_TRAINED = 1 << 31
"""Added in tokens.bin to a token after the first completion that is not trained: it is of a later prompt."""

INDEX_DTYPE = np.dtype(
    [
        ("end", np.int64),  # where its tokens end in tokens.bin; they begin where the previous example's ended
        ("num_tokens", np.int32),
        ("num_prompt_tokens", np.int32),
        ("num_loss_tokens", np.int32),  # as `packing.Example.num_loss_tokens`
        ("game", np.int32),  # index into games.json
        ("file", np.int32),  # index into meta["files"]
        ("line", np.int32),
    ]
)

_CHUNK_RECORDS = 1024


def hash_prompt(prompt: str) -> int:
    """Return a 64-bit fingerprint of a prompt."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "little")


def is_among(prompt_hash: int, hashes: np.ndarray) -> bool:
    """Return whether a `hash_prompt` is among these (uint64, sorted)."""
    wanted = np.uint64(prompt_hash)
    at = int(np.searchsorted(hashes, wanted))
    return at < len(hashes) and bool(hashes[at] == wanted)


def tokenize(
    paths: list[Path],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "plain",
    columns: Sequence[str] = (),
    bad_lines: str,
    for_training: bool,
    cache: Path,
) -> Path:
    """Return the cache directory of these files under this tokenizer; write it unless it exists.

    It is keyed by the files' paths, sizes and modification times, the tokenizer, the template and the options. Raises
    InputError for a bad line (unless `bad_lines` is "skip") and, if `for_training`, for a line from a game
    that is reserved for judging.
    """
    target = cache / _cache_key(paths, tokenizer, template, bad_lines, for_training, columns)
    skipped: Counter[str] = Counter()
    own_special: Counter[str] = Counter()
    if target.is_dir():
        return target
    with new_directory(target, exist_ok=True) as directory:
        records = read_records(paths, bad_lines, skipped, parse_columns(columns))
        if for_training:
            records = _without_reserved_seeds(records)
        keyed = game_keys(records, common_root(paths))
        chunks = _encoded_chunks(keyed, tokenizer, template, own_special, skipped if bad_lines == "skip" else None)
        meta = _write_tokens(directory, paths, chunks)
        counted = {"own_special_tokens": dict(own_special), "skipped_lines": dict(skipped)}
        (directory / "meta.json").write_text(json.dumps(meta | counted))
    return target


def _encoded_chunks(
    keyed_records: Iterable[tuple[Record, str]],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    own_special: Counter[str],
    skipped: Counter[str] | None,
) -> Iterator[list[tuple[Record, str, Encoded]]]:
    """Yield records with their games and tokens. One that the template cannot show is counted in `skipped`; without
    that, it raises InputError."""
    keyed = iter(keyed_records)
    while chunk := list(islice(keyed, _CHUNK_RECORDS)):
        encoded = encode_records(tokenizer, [record for record, _ in chunk], template, own_special)
        good = []
        for (record, game), tokens in zip(chunk, encoded, strict=True):
            if not isinstance(tokens, BadLine):
                good.append((record, game, tokens))
            elif skipped is None:
                raise InputError(f"{record.place}: {tokens.reason}{tokens.detail}")
            else:
                skipped[tokens.reason] += 1
        yield good


def _write_tokens(
    directory: Path, paths: list[Path], chunks: Iterable[list[tuple[Record, str, Encoded]]]
) -> dict[str, Any]:
    games: dict[str, int] = {}
    file_numbers = {str(path): number for number, path in enumerate(paths)}
    styles: set[str | None] = set()
    forms: dict[str, str] = {}
    file_sizes: Counter[str] = Counter()
    content = hashlib.sha256()
    end = num_examples = 0
    largest, where = -1, 0
    with (
        (directory / "tokens.bin").open("wb") as token_file,
        (directory / "index.bin").open("wb") as index_file,
        (directory / "prompt_hashes.bin").open("wb") as hash_file,
    ):
        for chunk in chunks:
            index = np.empty(len(chunk), dtype=INDEX_DTYPE)
            for row, (record, game, encoded) in enumerate(chunk):
                tokens = _as_stored(encoded).tobytes()
                token_file.write(tokens)
                content.update(tokens)
                end += len(encoded.ids)
                if max(encoded.ids) > largest:
                    largest, where = max(encoded.ids), num_examples + row
                index[row] = (
                    end,
                    len(encoded.ids),
                    encoded.trained[0][0],
                    # A first token has nothing to be predicted from.
                    sum(stop - max(start, 1) for start, stop in encoded.trained),
                    games.setdefault(game, len(games)),
                    file_numbers[record.file],
                    record.line,
                )
            hashes = [hash_prompt(prompt) for record, _, _ in chunk for prompt, _ in record.turns]
            hash_file.write(np.array(hashes, dtype=np.uint64).tobytes())
            index_file.write(index.tobytes())
            content.update(index["num_prompt_tokens"].tobytes() + index["game"].tobytes())
            num_examples += len(chunk)
            styles |= {record.style for record, _, _ in chunk}
            forms |= {record.file: record.form for record, _, _ in chunk}
            file_sizes.update(record.file for record, _, _ in chunk)
    if num_examples == 0:
        raise InputError(f"no usable line in {paths[0]}{', ...' if len(paths) > 1 else ''}")
    # In place, in the file: 80 MB for ten million lines, none of it this process's own.
    np.memmap(directory / "prompt_hashes.bin", dtype=np.uint64, mode="r+").sort()
    (directory / "games.json").write_text(json.dumps(list(games)))
    return {
        "num_examples": num_examples,
        "num_tokens": end,
        "num_games": len(games),
        "files": list(file_numbers),
        "forms": [forms.get(file) for file in file_numbers],
        "file_sizes": [file_sizes[file] for file in file_numbers],
        "styles": sorted(styles, key=str),
        "largest_token": {"id": largest, "example": where},
        "fingerprint": content.hexdigest(),
    }


def _as_stored(encoded: Encoded) -> np.ndarray:
    """Return the tokens, uint32, those between two completions marked as `NOT_TRAINED`."""
    tokens = np.array(encoded.ids, dtype=np.uint32)
    for (_, stop), (start, _) in itertools.pairwise(encoded.trained):
        tokens[stop:start] |= np.uint32(NOT_TRAINED)
    return tokens


def _without_reserved_seeds(records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        check_train_seed(record)
        yield record


def _cache_key(
    paths: list[Path],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    bad_lines: str,
    for_training: bool,
    columns: Sequence[str] = (),
) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    described = [FORMAT_VERSION, files, tokenizer_fingerprint(tokenizer), bad_lines, for_training]
    described += [described_template(tokenizer, template), *columns]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:24]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of everything that decides the ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{described}{tokenizer.eos_token_id}".encode()).hexdigest()
