"""Command lines: flags parsed into a dataclass, and the frame in which every launcher runs."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from snake_dist.errors import InputError, RankError

Config = TypeVar("Config")
WAIT_TO_BE_STOPPED_S = 20.0
"""How long a rank waits for another one to print their common error."""


def parse_dataclass(config_class: type[Config], argv: Sequence[str]) -> Config:
    """Return an instance of a (nested) dataclass from flat flags; the fields' docstrings are the help.

    Raises InputError with tyro's own message in one line.
    """
    import tyro

    # The deepspeed launcher puts --local_rank=N before the user's flags; LOCAL_RANK in the environment is the same.
    argv = [flag for flag in argv if not flag.startswith("--local_rank=")]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                config_class, args=argv, description=config_class.__doc__, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
    # tyro frames its message in a box, the message first, hints below a rule.
    inside = [line.strip("│ ") for line in printed.getvalue().splitlines() if line.startswith("│")]
    message = [line for line in inside if line]
    rule = next((i for i, line in enumerate(message) if set(line) == {"─"}), len(message))
    raise InputError(" ".join(message[:rule]) or printed.getvalue().strip())


@contextlib.contextmanager
def _disk_errors_in_a_line() -> Iterator[None]:
    """Raise what a full, broken or read-only disk ends in as a RankError."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise RankError(str(problem)) from problem


def run_launcher(main: Any) -> None:
    """Run a launcher's `main(argv)`; exit with an InputError's code after rank 0 printed it as one line.

    A RankError is printed by the rank that raised it.
    """
    from snake_dist.cluster.world import world_from_environment

    # PyTorch's C++ warnings, of a group that an error leaves, say: pages beside the line that is the user's.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with _disk_errors_in_a_line():
            main(sys.argv[1:])
    except InputError as problem:
        prints_first = True
        with contextlib.suppress(InputError):
            prints_first = world_from_environment().is_main
        if isinstance(problem, RankError):
            prints_first = bool(str(problem))
        if not prints_first:
            # Trap: torchrun and deepspeed stop every rank as soon as one has failed, so a rank that exits at once could
            # stop the one that prints the error. This one waits to be stopped, and prints it if nobody stops it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(WAIT_TO_BE_STOPPED_S)
        if str(problem):
            from tqdm import tqdm

            # not print: a progress bar has no end of line
            tqdm.write(f"{Path(sys.argv[0]).name}: error: {' '.join(str(problem).split())}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
