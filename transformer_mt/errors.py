"""The two kinds of expected failure. Anything else that escapes is a bug and keeps its traceback."""


class TmtError(Exception):
    """An expected failure: its message is one line that says what, where, found what, and what to do."""

    exit_status = 1


class InputError(TmtError):
    """Wrong usage, configuration or input (exit status 2)."""

    exit_status = 2


class RunError(TmtError):
    """Correct input, but the work failed while running: full disk, loss not finite (exit status 1)."""

    exit_status = 1
