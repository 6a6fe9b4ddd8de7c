"""mkdocs: the reference pages, written from the code when the site is built."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

PACKAGE = Path(__file__).parents[1] / "snake_dist"
sys.path.insert(0, str(PACKAGE.parent))

METRIC = re.compile(r"(train|eval|model|checkpoint|play)/[a-z_0-9/{}]+")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, text in (("flags", flags_page()), ("metrics", metrics_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def flags_page() -> str:
    """Every verb's help, as it prints it."""
    from snake_dist.__main__ import VERBS

    parts = ["# Flags\n\nWritten from the code: `snake-dist VERB --help`.\n"]
    for verb, purpose in VERBS.items():
        parts.append(f"## {verb}\n\n{purpose[0].upper()}{purpose[1:]}.\n\n```\n{help_of(verb)}\n```\n")
    return "\n".join(parts)


def help_of(verb: str) -> str:
    printed, argv, columns = io.StringIO(), sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = [f"snake-dist {verb}"], "94"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            import_module(f"snake_dist.verbs.{verb.replace('-', '_')}").main(["--help"])
    finally:
        sys.argv = argv
        os.environ.pop("COLUMNS") if columns is None else os.environ.__setitem__("COLUMNS", columns)
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).strip()


def metrics_page() -> str:
    """The names that the code logs, with the file that has them, and the fields of a player's summary."""
    from snake_dist.evaluation.judging.metrics import PlayerSummary

    places: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if METRIC.fullmatch(text):
                places.setdefault(text, set()).add(path.relative_to(PACKAGE).as_posix())
    rows = [f"| `{name}` | `{'`, `'.join(sorted(files))}` |" for name, files in sorted(places.items())]
    fields = [
        f"| `{name}` | {getattr(kind, '__name__', str(kind)).replace('|', 'or')} |"
        for name, kind in get_type_hints(PlayerSummary).items()
    ]
    return "\n".join([
        "# Names of metrics\n\nWritten from the code; [metrics.md](../metrics.md) defines each.\n",
        "## Logged\n\nIn `metrics.jsonl`, W&B, TensorBoard and Trackio.\n\n| name | in |\n|---|---|", *rows,
        "\n## Of a player's games\n\nIn `report.json` under `players.NAME`.\n\n| name | kind |\n|---|---|", *fields, "",
    ])  # fmt: skip
