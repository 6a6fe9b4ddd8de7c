"""Fine-tune a language model on Snake and judge it by playing; every rank runs this program."""

from __future__ import annotations

from snake_dist.run.config import parse_run_config


def main(argv: list[str]) -> None:
    config = parse_run_config(argv)

    from snake_dist.cluster.world import end_process_group
    from snake_dist.run.finetune import finetune

    finetune(config)
    end_process_group()
