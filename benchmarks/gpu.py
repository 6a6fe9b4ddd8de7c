"""Measure this toolkit on one GPU: is it right, how fast is a step beside TRL's, what does a step do, how fast is play.

    python benchmarks/gpu.py [--only ceilings 1B ...] [--seconds 600] [--output gpu.jsonl]
    python benchmarks/gpu.py --tiny      the same jobs in small, on a CPU too
    python benchmarks/gpu.py --table gpu.jsonl

Every job runs in a process of its own, contenders in turns; each adds a line of JSON to the output, and what it
measured is printed as Markdown at the end. Contenders of TRL and liger-kernel need the extras `bench` and `gpu`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # of this checkout only the package is installed

NUM_WARM = 4
"""Steps of a turn that compile and warm up: as many as there are different batches, so that each length was seen."""
WITH_KERNELS = {"trl, liger", "trl, packed, liger"}
GROUPS = ("ceilings", "1B", "profile", "0.13B", "0.5B", "8B", "losses", "resume", "decode", "judge")
ADAPTERS = ("lora", "rslora", "dora", "pissa", "adalora", "qlora")

Job = tuple[str, str, dict[str, Any]]
"""Group, name of the function, its options."""


def jobs_of(group: str, *, tiny: bool) -> list[Job]:
    """Return the jobs of a group in the order in which they run."""
    shape = "tiny" if tiny else "1B"
    if group == "ceilings":
        return [(group, "ceilings", {"tiny": tiny})]
    if group in ("0.13B", "0.5B", "1B", "8B"):
        names = [
            "snake_dist",
            "snake_dist, compiled",
            "trl",
            "trl, packed",
            "trl, liger",
            "trl, packed, liger",
            "bare",
            "bound",
        ]
        turns = [*names, *names[:5]] if group == "1B" else names[:1] + names[-1:] + ["trl", "trl, liger"]
        return [(group, "step", {"contender": name, "shape": group, "tiny": tiny}) for name in turns]
    if group == "losses":
        kinds = [(adapter, "float32") for adapter in ADAPTERS] + [("lora", "bfloat16"), ("lora", "float16")]
        places = [(kind, on_cpu) for kind in (kinds[:1] if tiny else kinds) for on_cpu in (True, False)]
        return [(group, "losses", {"adapter": kind, "dtype": dtype, "on_cpu": c}) for (kind, dtype), c in places]
    if group == "profile":
        layers = ("kernels", "compiled")
        return [(group, "step_profile", {"shape": shape, "tiny": tiny, "layers": each}) for each in layers]
    if group == "decode":
        return [
            (group, "decode", {"shape": "tiny" if tiny else "0.13B", "tiny": tiny, "num_prompts": number})
            for number in ((4,) if tiny else (256, 1024))
        ]
    stages = (2,) if tiny else (2, 3)
    if group == "judge":
        return [(group, "judge_memory", {"shape": shape, "tiny": tiny, "stage": stage}) for stage in stages]
    return [(group, "resume", {"stage": stage}) for stage in stages]


def step(*, contender: str, shape: str, tiny: bool) -> dict[str, Any]:
    """Return one turn of a contender, without its warm steps."""
    from benchmarks.gpu_step import CONTENDERS
    from benchmarks.made_models import LONG, SNAKE, TINY

    run, options = CONTENDERS[contender]
    lines = TINY if tiny else LONG if shape == "8B" else SNAKE
    counted = 2 if tiny else 6
    turn = run("tiny" if tiny else shape, lines, NUM_WARM + counted, **options)
    seconds, trained = turn.seconds[NUM_WARM:], turn.trained_tokens[NUM_WARM:]
    return {
        "ms": [1e3 * each for each in seconds],
        "trained_tokens_per_s": [tokens / each for tokens, each in zip(trained, seconds, strict=True)],
        "warm_s": sum(turn.seconds[:NUM_WARM]),
        "mfu": turn.mfu[NUM_WARM:],
        "peak_gib": turn.peak_gib,
        "losses": turn.losses[-2:],
        **turn.notes,
    }


def run_job(function: str, options: dict[str, Any], pipe: Any) -> None:
    """In a process: send what the job returned, or its error."""
    if options.pop("on_cpu", False):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("WANDB_MODE", "disabled")
    try:
        from benchmarks import gpu_jobs

        pipe.send((step if function == "step" else getattr(gpu_jobs, function))(**options))
    except BaseException as error:
        lines = traceback.format_exc().splitlines()
        pipe.send({"error": f"{type(error).__name__}: {error}"[:600], "where": lines[-4:]})


def can_run(job: Job) -> bool:
    """Return whether the libraries of a contender are installed."""
    contender = job[2].get("contender", "")
    needs = [name for name in ("trl", "datasets") if contender.startswith("trl")]
    needs += ["liger_kernel"] * (contender in WITH_KERNELS)
    return all(importlib.util.find_spec(name) is not None for name in needs)


def measure(jobs: list[Job], output: Path, seconds: float) -> None:
    """Run the jobs and append their results to `output`; begin none after `seconds`."""
    server = multiprocessing.get_context("forkserver")
    # Trap: PEFT (through bitsandbytes) and DeepSpeed ask for the GPU when imported, and no process can fork after that.
    server.set_forkserver_preload(["torch", "transformers"])
    began = time.monotonic()
    for job in jobs:
        group, function, options = job
        left = seconds - (time.monotonic() - began)
        entry: dict[str, Any] = {"group": group, "job": function, "options": options}
        if not can_run(job):
            entry["skipped"] = "not installed"
        elif left <= 0:
            entry["skipped"] = "no time left"
        else:
            receiver, sender = server.Pipe(duplex=False)
            process = server.Process(target=run_job, args=(function, dict(options), sender), daemon=True)
            started = time.monotonic()
            process.start()
            sender.close()
            try:
                entry |= receiver.recv() if receiver.poll(left) else {"skipped": f"not done in {left:.0f} s"}
            except EOFError:
                entry["error"] = "the process ended"
            process.kill()
            process.join()
            entry["seconds"] = round(time.monotonic() - started, 1)
        with output.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry)[:400], file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Return the card and the versions that a figure belongs to."""
    import deepspeed
    import peft
    import torch
    import transformers

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = {each.__name__: each.__version__ for each in (torch, transformers, peft, deepspeed)}
    return {"group": "machine", "card": card, "date": time.strftime("%Y-%m-%d"), **versions}


def table(entries: list[dict[str, Any]]) -> str:
    """Return Markdown: the steps of each shape, medians over all turns, then every other job's numbers."""
    lines = [f"{key}: {value}" for entry in entries if entry["group"] == "machine" for key, value in entry.items()]
    steps: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        if entry.get("job") == "step" and "ms" in entry:
            steps.setdefault((entry["group"], entry["options"]["contender"]), []).append(entry)
    if steps:
        lines += ["", "| shape | contender | ms | trained tokens/s | MFU | peak GiB | turns |", "|---" * 7 + "|"]
    for (shape, contender), turns in steps.items():
        ms = median(each for turn in turns for each in turn["ms"])
        rate = median(each for turn in turns for each in turn["trained_tokens_per_s"])
        peak = max(turn["peak_gib"] for turn in turns)
        shares = [each for turn in turns for each in turn["mfu"]]
        mfu = f"{median(shares):.2f}" if shares else "-"
        lines.append(f"| {shape} | {contender} | {ms:.1f} | {rate:,.0f} | {mfu} | {peak:.1f} | {len(turns)} |")
    for entry in entries:
        if entry["group"] == "machine" or "ms" in entry:
            continue
        found = {key: value for key, value in entry.items() if key not in ("group", "job", "options", "seconds")}
        options = ", ".join(f"{key} {value}" for key, value in entry["options"].items() if key != "tiny")
        lines.append(f"- {entry['group']}, {entry['job']} ({options}): {json.dumps(found)}")
    return "\n".join(lines)


def main() -> None:
    from benchmarks.gpu_step import CONTENDERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seconds", type=float, default=600, help="begin no job after this time")
    parser.add_argument("--tiny", action="store_true", help="small models and inputs")
    parser.add_argument("--output", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--table", type=Path, help="print the Markdown of an earlier output and measure nothing")
    arguments = parser.parse_args()
    path = arguments.table or arguments.output
    if arguments.table is None:
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(machine()) + "\n")
        jobs = [job for group in arguments.only for job in jobs_of(group, tiny=arguments.tiny)]
        jobs = [job for job in jobs if job[2].get("contender", "") in ("", *arguments.contenders)]
        measure(jobs, path, arguments.seconds)
    print(table([json.loads(line) for line in path.read_text().splitlines()]))


if __name__ == "__main__":
    main()
