"""Exceptions that launchers print as one line, without a traceback."""


class InputError(Exception):
    """Bad input. The message is one line: the value, where it stands (flag, key or file:line), what is allowed."""

    exit_code = 2


class NoGoodCheckpointError(InputError):
    """There are checkpoints, and not one of them is intact: the run must not silently start from zero."""

    exit_code = 3


class RankError(InputError):
    """What one rank met alone. It is printed by the rank that raises it; an empty message: another rank says it."""

    exit_code = 1
