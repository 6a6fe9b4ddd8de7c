"""Trained tokens per second and peak memory: this toolkit, TRL, a bare loop, and the matrix products alone.

    python benchmarks/speed.py [--data FILE.jsonl] [--rounds 3] [--output benchmark_speed.json]

Every contender trains SmolLM2-135M-Instruct in the dtype that this machine is fast in, with LoRA (rank 16, alpha 32, no
dropout, every linear layer) and AdamW, on the same lines, four examples a rank and step. Contenders take turns, each in
fresh processes with one thread per core; the first step of a turn is not counted. The table shows medians over the
counted steps of all turns; `bound` runs just the matrix products that the step cannot avoid. Needs the extra `bench`
(TRL, datasets).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = "RESULT "


def main() -> None:
    from benchmarks.contenders import RUN

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="prompt/completion JSONL; default: 60 generated games, sentence style")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contender")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of a turn")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks; 1 uses all cores")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="of all; default: what a run here takes")
    parser.add_argument("--only", nargs="+", choices=RUN, default=list(RUN))
    parser.add_argument("--output", default="benchmark_speed.json")
    parser.add_argument("--contender", choices=RUN, help=argparse.SUPPRESS)  # set for the processes it starts
    arguments = parser.parse_args()
    if arguments.contender:
        run_contender(RUN[arguments.contender], arguments)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    data = arguments.data or generated_data()
    dtype = arguments.dtype or own_dtype()
    turns: dict[str, list[dict[str, Any]]] = {}
    for turn in range(arguments.rounds):
        for ranks in arguments.ranks:
            for contender in arguments.only:
                result = run_turn(contender, ranks, data, arguments.steps, dtype)
                turns.setdefault(f"{contender}, {ranks} rank{'s' * (ranks > 1)}", []).append(result)
                print(f"turn {turn + 1}: {contender}, {ranks} ranks: {result}", file=sys.stderr, flush=True)
                Path(arguments.output).write_text(
                    json.dumps({"data": str(data), "dtype": dtype, "turns": turns}, indent=1)
                )
    print(f"all in {dtype}\n{table(turns)}")


def own_dtype() -> str:
    """Return the dtype that a run on this machine would choose."""
    from snake_dist.model.base import choose_dtype

    return choose_dtype("auto", {})


def run_turn(contender: str, ranks: int, data: str, steps: int, dtype: str) -> dict[str, Any]:
    """One contender in fresh processes; what its first rank reported."""
    num_cores = os.cpu_count() or 1
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, num_cores // ranks)),
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
        *(__file__, "--contender", contender, "--data", str(data), "--steps", str(steps), "--dtype", dtype),
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in process.stdout.splitlines() if line.startswith(RESULT)]
    if process.returncode or not lines:
        sys.exit(f"{contender} on {ranks} ranks failed:\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}")
    return json.loads(lines[0].removeprefix(RESULT))


def run_contender(run: Any, arguments: argparse.Namespace) -> None:
    """In a rank: pin it to its cores, train, report on rank 0."""
    import torch

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    threads = int(os.environ["OMP_NUM_THREADS"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[rank * threads : (rank + 1) * threads] or cores)
    torch.set_num_threads(threads)
    started = time.perf_counter()
    # (seconds, trained tokens of all ranks) of each step
    steps: list[tuple[float, int]] = run(arguments.data, 1 + arguments.steps, arguments.dtype)
    finished = time.perf_counter()
    peak = torch.tensor([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20])
    peaks = [torch.zeros(1) for _ in range(ranks)]
    torch.distributed.all_gather(peaks, peak)
    if rank == 0:
        result = {
            "trained_tokens_per_s": [tokens / seconds for seconds, tokens in steps[1:]],
            "peak_gib_per_rank": max(float(value) for value in peaks),
            "seconds_to_first_step": finished - started - sum(seconds for seconds, _ in steps[1:]),
        }
        print(RESULT + json.dumps(result), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def generated_data() -> str:
    """Lines of BFS games in the style with the longest prompts, made once."""
    directory = Path(tempfile.gettempdir()) / "snake_dist_benchmark"
    if not list(directory.glob("**/*.jsonl")):
        command = ["launcher/generate_data.py", "--policy", "bfs", "--style", "sentence", "--games", "60"]
        subprocess.run([sys.executable, *command, "--output", str(directory)], check=True, cwd=ROOT)
    return str(next(directory.glob("**/*.jsonl")))


def table(turns: dict[str, list[dict[str, Any]]]) -> str:
    """Medians, each beside the bound and TRL on as many ranks."""
    rate = {
        name: median(rate for turn in results for rate in turn["trained_tokens_per_s"])
        for name, results in turns.items()
    }
    memory = {name: median(turn["peak_gib_per_rank"] for turn in results) for name, results in turns.items()}
    start = {name: median(turn["seconds_to_first_step"] for turn in results) for name, results in turns.items()}

    def ratio(values: dict[str, float], name: str, other: str) -> str:
        against = f"{other},{name.partition(',')[2]}"
        return f"{values[name] / values[against]:6.2f}" if against in values else "     -"

    columns = [(rate, "bound"), (rate, "trl"), (rate, "trl_packed"), (memory, "trl"), (start, "trl")]
    titles = ("speed / bound", "speed / TRL", "speed / TRL packed", "peak memory / TRL", "first step / TRL")
    lines = [f"{'contender':24}" + "".join(f"{title:>20}" for title in titles)]
    lines += [f"{name:24}" + "".join(f"{ratio(values, name, other):>20}" for values, other in columns) for name in rate]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # of this checkout only the package is installed
    main()
