"""Lines for people: on stderr, of texts and of tables."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

Tell = Callable[[str], None]  # what is called with a line for people


def tell(line: str) -> None:
    """Write a line to stderr. Where it cannot be written (a full disk, a reader or a terminal that is gone), work goes
    on without it."""
    with contextlib.suppress(OSError, ValueError):  # the latter: a stream that was closed
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def tell_nobody(line: str) -> None:
    """Take a line that nobody wants to read."""


def shortened(text: str, longest: int) -> str:
    """Return a text of at most ``longest`` characters, the last of which is "…" where some were left out."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def counted(number: int, noun: str) -> str:
    """Return how many there are, in words: "1 pair", "2,000 pairs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def aligned(rows: Sequence[Sequence[str]], num_names: int = 1) -> list[str]:
    """Return the lines of a table: the first columns, which hold names, to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < num_names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def let_go_of_stderr() -> None:
    """For the end of a program: what could not be written stays in the buffer, and would change the exit status."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
