"""Exceptions that launchers print as one line, without a traceback, and the check of a lowest value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Bad input. The message is one line: the place (flag, key or file:line), the value, what is allowed."""

    exit_code = 2


class NoGoodCheckpointError(InputError):
    """All checkpoints of a run are damaged: the run must not silently start from zero."""

    exit_code = 3


class RankError(InputError):
    """A problem of one rank alone, which prints it; with an empty message, another rank prints it."""

    exit_code = 1


def check_at_least(config: object, **lowest: float) -> None:
    """Raise InputError, naming the flag, unless each of these fields of `config` is finite and at least this large.

    A field that is None is not checked; of a tuple, each item is.
    """
    for name, low in lowest.items():
        given = getattr(config, name)
        for value in given if isinstance(given, tuple) else () if given is None else (given,):
            if not (value >= low and math.isfinite(value)):
                raise InputError(f"--{name.replace('_', '-')} {value}: at least {low}")


@contextmanager
def named(place: str) -> Iterator[None]:
    """Put the place in front of the message of an InputError."""
    try:
        yield
    except InputError as problem:
        raise InputError(f"{place}: {problem}") from None
