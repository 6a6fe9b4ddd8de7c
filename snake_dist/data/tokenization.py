"""Records -> token files on disk, once per data set and tokenizer; every rank then maps the same files.

A cache directory holds tokens.bin (uint32, all examples back to back), index.bin (one `INDEX_DTYPE` row per
example), prompt_hashes.bin (uint64, sorted), games.json (keys of the games) and meta.json, the only one that a run
reads whole. It is written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snake_dist.data.game_keys import common_root, game_keys
from snake_dist.data.records import Record, check_train_seed, read_records
from snake_dist.data.templates import encode_completions, encode_prompts
from snake_dist.files import new_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT_VERSION = 5

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
    paths: list[Path], tokenizer: PreTrainedTokenizerBase, *, bad_lines: str, for_training: bool, cache: Path
) -> Path:
    """Return the cache directory of these files under this tokenizer; write it unless it exists.

    It is keyed by the files' paths, sizes and modification times, the tokenizer and the options. Raises
    InputError for a bad line (unless `bad_lines` is "skip") and, if `for_training`, for a line from a game
    that is reserved for judging.
    """
    target = cache / _cache_key(paths, tokenizer, bad_lines, for_training)
    skipped: Counter[str] = Counter()
    if target.is_dir():
        return target
    with new_directory(target, exist_ok=True) as directory:
        records = read_records(paths, bad_lines=bad_lines, skipped=skipped)
        if for_training:
            records = _without_reserved_seeds(records)
        meta = _write_tokens(directory, paths, game_keys(records, common_root(paths)), tokenizer)
        (directory / "meta.json").write_text(json.dumps(meta | {"skipped_lines": dict(skipped)}))
    return target


def _write_tokens(
    directory: Path, paths: list[Path], keyed_records: Iterable[tuple[Record, str]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    games: dict[str, int] = {}
    file_numbers = {str(path): number for number, path in enumerate(paths)}
    styles: set[str | None] = set()
    own_special: Counter[str] = Counter()
    content = hashlib.sha256()
    end = num_examples = 0
    largest, where = -1, 0
    keyed = iter(keyed_records)
    with (
        (directory / "tokens.bin").open("wb") as token_file,
        (directory / "index.bin").open("wb") as index_file,
        (directory / "prompt_hashes.bin").open("wb") as hash_file,
    ):
        while chunk := list(islice(keyed, _CHUNK_RECORDS)):
            prompts = encode_prompts(tokenizer, [record.prompt for record, _ in chunk], own_special)
            completions = encode_completions(tokenizer, [record.completion for record, _ in chunk], own_special)
            index = np.empty(len(chunk), dtype=INDEX_DTYPE)
            for row, ((record, game), prompt, completion) in enumerate(zip(chunk, prompts, completions, strict=True)):
                ids = [*prompt, *completion, tokenizer.eos_token_id]
                tokens = np.array(ids, dtype=np.uint32).tobytes()
                token_file.write(tokens)
                content.update(tokens)
                end += len(ids)
                if max(ids) > largest:
                    largest, where = max(ids), num_examples + row
                index[row] = (
                    end,
                    len(ids),
                    len(prompt),
                    len(ids) - max(len(prompt), 1),
                    games.setdefault(game, len(games)),
                    file_numbers[record.file],
                    record.line,
                )
            hash_file.write(np.array([hash_prompt(record.prompt) for record, _ in chunk], dtype=np.uint64).tobytes())
            index_file.write(index.tobytes())
            content.update(index["num_prompt_tokens"].tobytes() + index["game"].tobytes())
            num_examples += len(chunk)
            styles |= {record.style for record, _ in chunk}
    # In place, in the file: 80 MB for ten million lines, none of it this process's own.
    np.memmap(directory / "prompt_hashes.bin", dtype=np.uint64, mode="r+").sort()
    (directory / "games.json").write_text(json.dumps(list(games)))
    return {
        "num_examples": num_examples,
        "num_tokens": end,
        "num_games": len(games),
        "files": list(file_numbers),
        "styles": sorted(styles, key=str),
        "own_special_tokens": dict(own_special),
        "largest_token": {"id": largest, "example": where},
        "fingerprint": content.hexdigest(),
    }


def _without_reserved_seeds(records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        check_train_seed(record)
        yield record


def _cache_key(paths: list[Path], tokenizer: PreTrainedTokenizerBase, bad_lines: str, for_training: bool) -> str:
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    described = [FORMAT_VERSION, files, tokenizer_fingerprint(tokenizer), bad_lines, for_training]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:24]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 of everything that decides the ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(f"{described}{tokenizer.eos_token_id}".encode()).hexdigest()
