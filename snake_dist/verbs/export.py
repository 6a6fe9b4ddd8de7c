"""Merge an adapter into its base model, for programs that only load whole models."""

from __future__ import annotations

from snake_dist.checkpoint.export import Export, export
from snake_dist.cli import parse_dataclass


def main(argv: list[str]) -> None:
    from snake_dist.model.base import quieten_libraries

    config = parse_dataclass(Export, argv)
    quieten_libraries()
    dtype = export(config)
    print(f"{dtype} model: {config.merge}")
