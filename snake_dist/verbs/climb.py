"""Train in stages, each from the last adapter, on generated and corrected games, and judge each stage by playing."""

from __future__ import annotations

import shlex
import sys

from snake_dist.cli import parse_dataclass
from snake_dist.climb.results import write_results
from snake_dist.climb.stages import Climb, read_climb
from snake_dist.cluster.local import run_all
from snake_dist.files import lock_directory


def main(argv: list[str]) -> None:
    config = parse_dataclass(Climb, argv)
    steps = read_climb(config)
    if config.dry_run:
        print("\n".join(shlex.join(step.command) for step in steps))
        return
    _lock = lock_directory(config.output, f"--output {config.output}")  # held until this function ends
    for step in steps:
        if step.is_done():
            continue
        print(f"{step.stage.name}: {shlex.join(step.command[1:])}", flush=True)
        if code := run_all([step.command]):
            # Behind a traceback that torchrun prints where it is stopped.
            print(f"{step.stage.name}: exit code {code}; the same command resumes it", file=sys.stderr)
            sys.exit(code)
        if not step.is_done():
            print(f"{step.stage.name}: stopped; the same command resumes it", flush=True)
            return
    print(write_results(steps, config.output))
