"""The one exception that means "the user can fix this": launchers print it as one line, without a traceback."""


class InputError(Exception):
    """Bad input. The message is one line: the value, where it stands (flag, key or file:line), what is allowed."""
