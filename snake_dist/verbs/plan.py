"""Plan a run before it is queued: memory per rank and ZeRO stage, messages, time. Planning loads no weights."""

from __future__ import annotations

from snake_dist.cli import parse_dataclass


def main(argv: list[str]) -> None:
    from snake_dist.planning.config import Plan

    flags = parse_dataclass(Plan, argv)

    from snake_dist.files import write_json_atomically
    from snake_dist.planning.plan import make_plan
    from snake_dist.planning.setups import ds_config_of
    from snake_dist.planning.text import render_plan

    planned = make_plan(flags)
    print(render_plan(planned, flags.plan))
    if flags.plan.write_ds is not None:
        write_json_atomically(flags.plan.write_ds, ds_config_of(planned.choice.setup))
        print(f"wrote {flags.plan.write_ds}")
