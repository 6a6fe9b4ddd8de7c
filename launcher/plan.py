"""Plan a run before it is queued: memory per rank and ZeRO stage, messages, time. Planning loads no weights.

python launcher/plan.py --base-model smollm2-135m --adapter lora --gpus 8 --gpu-memory 24GiB
python launcher/plan.py --base-model ./llama-8b --gpus 16 --gpus-per-node 8 --write-ds ds.json --examples 200000
"""

from __future__ import annotations

from snake_dist.cli import parse_dataclass, run_launcher


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


if __name__ == "__main__":
    run_launcher(main)
