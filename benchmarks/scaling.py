"""How speed, memory and messages grow. Prints tables, and writes every figure as JSON.

python benchmarks/scaling.py                        everything, about ten minutes on two quiet cores
python benchmarks/scaling.py --only collectives     one part: logits, overhead, collectives, growth or dataset
python benchmarks/scaling.py --quick                tiny models and sizes: shows that it works, measures nothing

Memory is measured in fresh processes. Processes whose times are compared are alive together, take turns step by step,
and have one thread each. Data are made here; the user's cache is not written to, but for the base model's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # of this checkout only the package is installed
from benchmarks.scaling_bench import ROOT, Bench, fabricate_cache, repeat_lines

MIB = 2**20


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys as a Markdown table."""
    print(f"\n### {title}\n\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    sys.stdout.flush()


def logits(bench: Bench) -> list[dict[str, Any]]:
    """Peak memory of a pass over packed examples of 512 tokens, 128 of them trained; a model of next to no layers."""
    points = [(8192, 4), (49152, 4), (131072, 4), (49152, 1), (49152, 16)]
    rows = []
    for vocabulary, examples in points[: 1 if bench.quick else None]:
        ours, plain = (
            bench.run("logits", vocabulary, examples, 512, 128, plainly)["peak_mib"] for plainly in (False, True)
        )
        rows.append(
            {
                "vocabulary": vocabulary,
                "tokens": 512 * examples,
                "trained": 128 * examples,
                "logits in bf16, MiB": 2 * vocabulary * 128 * examples / MIB,
                "this loss, peak MiB": ours,
                "every logit in fp32, peak MiB": plain,
            }
        )
    table("Logits: memory as vocabulary and sequence grow", rows)
    return rows


def overhead(bench: Bench) -> dict[str, Any]:
    """Two ranks on real lines, defaults: time to the first step, shares of a step, checkpoints."""
    num_steps = 12
    argv = bench.flags(bench.generated(), max_steps=num_steps, global_batch_size=8, save_every=4)
    found = bench.run("steps", argv, world_size=2)
    before, rows = 0.0, []
    for name, seconds in found["marks"].items():
        rows.append({"until": name, "seconds since the process began": seconds, "of it": seconds - before})
        before = seconds
    table("Time to the first step, 2 ranks (data already generated, tokenized now)", rows)
    # Without the first step and those that end with a checkpoint or begin after one.
    plain = [step for number, step in enumerate(found["steps"]) if number > 0 and number % 4]
    parts = ("data", "metrics over ranks", "logging", "stop flags and checkpoints")
    shares = {part: median(step.get(part, 0.0) / step["seconds"] for step in plain) for part in parts}
    step_s = median(step["seconds"] for step in plain)
    table(
        f"Outside the model: share of a step (median of {len(plain)}, {step_s:.3g} s each)",
        [{"part": part, "share": f"{share:.3%}"} for part, share in shares.items()]
        + [{"part": "together", "share": f"{sum(shares.values()):.3%}"}],
    )
    stalls = [save["checkpoint/stall_s"] for save in found["saves"]]
    checkpoint = {
        "MiB": found["saves"][0]["checkpoint/bytes"] / MIB,
        "stall, median s (the run's last, which waits, left out)": median(stalls[:-1]),
        "share of the time at a checkpoint every 50 steps": f"{median(stalls[:-1]) / (50 * step_s):.3%}",
    }
    table(f"Checkpoints ({len(stalls)} saved)", [checkpoint])
    return {**found, "shares": shares, "checkpoint": checkpoint}


RING = {"allreduce_": 2.0, "_allgather_base_": 1.0, "allgather_": 1.0, "_reduce_scatter_base_": 1.0, "reduce_": 1.0}
RING |= {
    "broadcast_": 1.0,
    "allgather_into_tensor_coalesced_": 1.0,
    "allgather_coalesced_": 1.0,
    "reduce_scatter_": 1.0,
}


def least_messages(stage: int, accumulation: int, found: dict[str, Any]) -> float:
    """The fewest bytes that a rank of two must send in a step, by a stage's own rule of who keeps what.

    All-reduce costs 2 x, gather and reduce-scatter 1 x (P - 1) / P of the message. Stage 0 keeps everything: one
    all-reduce. Stage 1: each rank gets its part of the summed gradient, once, and the others' updated parts. Stage 2
    keeps no whole gradient between micro-batches, so it reduces each. Stage 3 keeps no whole parameter between
    micro-batches either: it gathers the sharded ones in each, if memory allows to keep them from forward to
    backward pass, and the updated small ones that it keeps whole once.
    """
    adapter = found["trainable"] * found["element_bytes"]
    if stage <= 1:
        return adapter
    if stage == 2:
        return (accumulation + 1) * adapter / 2
    sharded = found["sharded"] * found["element_bytes"]
    small = found["persistent_trainable"] * found["element_bytes"]
    return (accumulation * (sharded + adapter) + small) / 2


def collectives(bench: Bench) -> list[dict[str, Any]]:
    """Two ranks: every message of a step, stop flag and metrics included, against the arithmetic minimum."""
    data = bench.fixed_lines(48, 16)
    cases = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    argvs = [
        bench.flags(
            data,
            ds=ROOT / f"ds_configs/zero{stage}.json",
            micro_batch_size=1,
            global_batch_size=2 * accumulation,
            max_steps=3,
        )
        for stage, accumulation in cases
    ]
    rows = []
    for (stage, accumulation), found in zip(cases, bench.run("collectives", argvs, world_size=2), strict=True):
        sent = sum(RING[kind] * size / 2 for kind, size in found["bytes"].items())
        least = least_messages(stage, accumulation, found)
        kinds = ", ".join(f"{kind.strip('_')} {calls}" for kind, calls in sorted(found["calls"].items()) if calls)
        rows.append(
            {
                "ZeRO": stage,
                "accumulation": accumulation,
                "MiB sent per rank": sent / MIB,
                "minimum MiB": least / MIB,
                "over": f"{sent / least - 1:+.2%}",
                "calls": sum(found["calls"].values()),
                "of them": kinds,
            }
        )
    table("Collectives of one optimizer step, 2 ranks", rows)
    return rows


def growth(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """Tokens/s and memory along one axis at a time; one process with one thread for each point."""
    num_steps = 2 if bench.quick else 6
    every = 1 if bench.quick else None
    axes: dict[str, dict[Any, list[str]]] = {
        "tokens per example": {
            length: bench.flags(bench.fixed_lines(length, length // 4), micro_batch_size=1, global_batch_size=1)
            for length in (128, 256, 512, 1024, 2048)[:every]
        },
        "examples of 96 tokens per micro-batch": {
            size: bench.flags(bench.fixed_lines(96, 32), micro_batch_size=size, global_batch_size=size)
            for size in (1, 2, 4, 8)[:every]
        },
        "LoRA rank (4 examples of 96 tokens)": {
            rank: bench.flags(bench.fixed_lines(96, 32), rank=rank, alpha=2 * rank) for rank in (4, 16, 64)[:every]
        },
    }
    found = {}
    for axis, points in axes.items():
        runs = {str(point): [*argv, "--max-steps", str(num_steps)] for point, argv in points.items()}
        rows = [
            {
                axis: name,
                f"tokens/s, median of {num_steps - 1}": median(s["tokens_per_s"] for s in result["steps"][1:]),
                "peak MiB": result["memory"]["peak"],
                "s per step": median(s["seconds"] for s in result["steps"][1:]),
            }
            for name, result in bench.in_turns(runs, num_steps).items()
        ]
        table(f"Growth: {axis}", rows)
        found[axis] = rows
    return found


def dataset(bench: Bench) -> dict[str, Any]:
    """Tokenization of real lines, and starts from data sets of up to ten million lines.

    Beyond the real lines the JSONL is those lines over and over, and its tokenized form is that of the real lines
    over and over, with games and prompt hashes of its own: laid where the package would have put it.
    """
    real = bench.generated()
    options = {"held_out_share": 0.05, "sequence_length": 1024}
    first = bench.run("tokenize", bench.flags(real, **options))
    speed = {
        "lines": first["lines"],
        "lines/s": first["lines"] / first["seconds"],
        "bytes per line on disk": sum(f.stat().st_size for f in Path(first["cache"]).glob("*.bin")) / first["lines"],
        "tokens per line": first["tokens"] / first["lines"],
    }
    sizes = (10_000, 30_000) if bench.quick else (10_000, 100_000, 1_000_000, 10_000_000)
    if not bench.quick:
        many = bench.root / "many.jsonl"
        repeat_lines(real, many, 20_000)
        done = bench.run("tokenize", bench.flags(many, **options))
        speed |= {"lines": done["lines"], "lines/s": done["lines"] / done["seconds"]}
        many.unlink()
    table("Tokenization, once per data set (one thread)", [speed])
    rows = []
    for size in sizes:
        path = bench.root / f"{size}.jsonl"
        repeat_lines(real, path, size)
        cache = fabricate_cache(bench, Path(first["cache"]), path, size)
        starts = [bench.run("start", bench.flags(path, **options)) for _ in range(3)]
        later = {key: median(start[key] for start in starts[1:]) for key in starts[0]}
        rows.append(
            {
                "lines": size,
                "JSONL MiB": path.stat().st_size / MIB,
                "first start s": starts[0]["prepare_s"],
                "its own MiB": starts[0]["own_mib"],
                "later start s": later["prepare_s"],
                "its data part, ms": 1000 * later["data_s"],
                "own MiB": later["own_mib"],
                "mapped MiB": later["mapped_mib"],
                "peak MiB above imports": later["peak_mib"],
                "data of a step, ms": 1000 * later["step_data_s"],
            }
        )
        path.unlink()
        shutil.rmtree(cache)
    table(
        "Starts by number of lines (all but loading the model; later: two processes, the data part five times in each)",
        rows,
    )
    return {"tokenization": speed, "starts": rows}


PARTS = {
    "logits": logits,
    "overhead": overhead,
    "collectives": collectives,
    "growth": growth,
    "dataset": dataset,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="scaling.json", help="every figure as JSON")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given several times")
    parser.add_argument("--quick", action="store_true", help="tiny models and sizes")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"cores": os.cpu_count(), "load before": os.getloadavg(), "quick": arguments.quick}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), arguments.quick)
        for name in arguments.only or PARTS:
            started = time.perf_counter()
            found[name] = PARTS[name](bench)
            found[f"{name}, seconds"] = time.perf_counter() - started
            Path(arguments.output).write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
