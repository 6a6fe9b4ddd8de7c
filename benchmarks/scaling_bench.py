"""The processes and the data of scaling.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, free_port

RANKS = ROOT / "benchmarks/scaling_ranks.py"


class Bench:
    """Where things lie, and how processes are started."""

    def __init__(self, root: Path, quick: bool) -> None:
        from snake_dist.model.base import ModelConfig, find_base
        from tests.support.tiny_models import tiny_llama

        self.root, self.quick = root, quick
        self.model = str(tiny_llama(root / "model")) if quick else find_base(ModelConfig())
        self.games = root / "games"

    def generated(self) -> Path:
        """Real lines: games by the default policy, as `launcher/generate_data.py` writes them."""
        from snake_dist.data.generation import generate
        from snake_dist.data.generation_config import GenerationConfig

        if not self.games.exists():
            config = GenerationConfig(games=30, max_steps_per_game=50, random_move_rate=0.1, style="compact")
            generate(config, self.games, workers=1)
        return next(self.games.rglob("*.jsonl"))

    def fixed_lines(self, tokens: int, trained: int, num_lines: int = 200) -> Path:
        """Lines of about this many tokens (a word or letter each), no two of which begin alike."""
        path = self.root / f"lines-{tokens}-{trained}.jsonl"
        letter = "a" if self.quick else " a"
        with path.open("w") as file:
            for number in range(num_lines):
                prompt = f"{number % 10}{number // 10:02}" + letter * (tokens - trained - 4)
                line = {"prompt": prompt, "completion": letter * (trained - 1), "game_id": number // 2}
                file.write(json.dumps(line) + "\n")
        return path

    def flags(self, data: Path, **flags: Any) -> list[str]:
        chosen: dict[str, Any] = {
            "base_model": self.model,
            "data": data,
            "output_dir": tempfile.mkdtemp(dir=self.root),
            "base_dtype": "bfloat16",
            "global_batch_size": 4,
            "micro_batch_size": 4,
            "sequence_length": 4096,
            "eval_every": 0,
            "save_every": 0,
            "play_games": 0,
            "held_out_share": 0.005,
            "wandb_mode": "disabled",
        } | flags
        return [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]

    def start(self, task: str, arguments: Any, world_size: int = 1) -> list[subprocess.Popen[str]]:
        settings = {
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            # glibc gives freed blocks back at once, so that what is resident is what is alive.
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "65536",
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "STARTED": str(time.time()),
        }
        return [
            subprocess.Popen(
                [sys.executable, str(RANKS), task, json.dumps(arguments)],
                env=os.environ | settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(self.root / f"errors-{rank}.txt").open("w"),
                text=True,
            )
            for rank in range(world_size)
        ]

    def run(self, task: str, *arguments: Any, world_size: int = 1) -> Any:
        """What rank 0 returns."""
        ranks = self.start(task, arguments, world_size)
        outputs = [process.communicate()[0] for process in ranks]
        return self.result(outputs[0])

    def result(self, output: str) -> Any:
        for line in output.splitlines():
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        raise RuntimeError((self.root / "errors-0.txt").read_text()[-3000:])

    def in_turns(self, runs: dict[str, list[str]], num_steps: int) -> dict[str, dict[str, Any]]:
        """{run: its result} of runs of `num_steps` steps, all alive at once, one step of each after the other."""
        alive = {name: self.start("steps in turns", [argv])[0] for name, argv in runs.items()}
        for _ in range(num_steps):
            for process in alive.values():
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                while not (line := process.stdout.readline()).startswith("STEP "):
                    if not line:
                        raise RuntimeError((self.root / "errors-0.txt").read_text()[-3000:])
        return {name: self.result(process.communicate()[0]) for name, process in alive.items()}


def repeat_lines(source: Path, target: Path, num_lines: int) -> None:
    """`num_lines` lines, those of `source` over and over."""
    lines = source.read_bytes().splitlines(keepends=True)
    with target.open("wb") as file:
        file.writelines([b"".join(lines)] * (num_lines // len(lines)))
        file.write(b"".join(lines[: num_lines % len(lines)]))


def fabricate_cache(bench: Bench, real: Path, path: Path, num_lines: int) -> Path:
    """What tokenizing `path` would leave, made of the tokenized form of the lines that it repeats."""
    import numpy as np

    from snake_dist.data.tokenization import INDEX_DTYPE, _cache_key
    from snake_dist.model.base import load_tokenizer

    target = real.parent / _cache_key([path], load_tokenizer(bench.model), "plain", "stop", True)
    target.mkdir()
    meta, games = (json.loads((real / name).read_text()) for name in ("meta.json", "games.json"))
    tokens = np.fromfile(real / "tokens.bin", dtype=np.uint32)
    index = np.fromfile(real / "index.bin", dtype=INDEX_DTYPE)
    rounds = -(-num_lines // len(index))
    with (target / "tokens.bin").open("wb") as token_file, (target / "index.bin").open("wb") as index_file:
        for number in range(rounds):
            part = index[: num_lines - number * len(index)].copy()
            tokens[: part["end"][-1]].tofile(token_file)
            part["end"] += number * len(tokens)
            part["game"] += number * len(games)
            part["line"] = np.arange(number * len(index) + 1, number * len(index) + len(part) + 1)
            part.tofile(index_file)
    hashes = np.random.default_rng(0).integers(0, 2**64, num_lines, dtype=np.uint64)
    np.sort(hashes).tofile(target / "prompt_hashes.bin")
    (target / "games.json").write_text(json.dumps([f"{key}/{number}" for number in range(rounds) for key in games]))
    num_tokens = (target / "tokens.bin").stat().st_size // 4
    (target / "meta.json").write_text(json.dumps(meta | {"num_examples": num_lines, "num_tokens": num_tokens}))
    return target
