"""Say what works on this machine, and the line that mends what does not."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from snake_dist.cli import parse_dataclass


@dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, and the line that mends what does not. Exit code 1: something stops a run."""

    bug_report: bool = False
    """Print what an issue needs, as Markdown; keys, the names of user and machine, and home directories are left out.
    """


def main(argv: list[str]) -> None:
    flags = parse_dataclass(Doctor, argv)

    from snake_dist.doctor import examine, render, render_bug_report

    findings = examine()
    print(render_bug_report(findings) if flags.bug_report else render(findings))
    sys.exit(1 if any(finding.stops for finding in findings) and not flags.bug_report else 0)
