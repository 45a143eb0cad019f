"""Files as the line contract wants them.

Text is UTF-8, a byte order mark is dropped, lines end at LF only, a CR before it is dropped; U+2028, NEL, VT
and FF stay inside the line. A path that ends in ``.gz`` is compressed, ``-`` is stdin or stdout. What we write
appears whole or not at all: a temporary name beside the target, then a rename.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import itertools
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from transformer_mt.errors import InputError, RunError


def read_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a text file, without their line ends, one at a time.

    Raises:
        InputError: no such file, not readable, not UTF-8 (names the line), or a damaged ``.gz``.
    """
    name = "stdin" if str(path) == "-" else str(path)
    number = 0
    try:
        with _open_binary(path) as file:
            for raw in file:
                number += 1
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                # Bytes split at LF only; str.splitlines and text mode would also split at U+2028, NEL, VT, FF and CR.
                yield raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{name}, line {number}: not UTF-8 (byte 0x{byte:02x} at offset {error.start} of the line); "
            f"convert the file, for example: iconv -f ISO-8859-1 -t UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name}: damaged gzip file after line {number} ({error}); copy or download it again"
        ) from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({_reason(error)}); check the path") from None


def read_line_pairs(first: str | Path, second: str | Path) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side.

    Raises:
        InputError: as `read_lines` does, or one file has more lines than the other.
    """
    if str(first) == str(second) == "-":
        raise InputError("stdin: cannot be both of two files; name a file for one")
    first_lines, second_lines = read_lines(first), read_lines(second)
    for number in itertools.count(1):
        line, other = next(first_lines, None), next(second_lines, None)
        if line is None and other is None:
            return
        if line is None or other is None:
            longer, rest = (first, first_lines) if other is None else (second, second_lines)
            shorter = second if other is None else first
            total = number + sum(1 for _ in rest)
            raise InputError(
                f"{shorter} has {number - 1:,} lines, {longer} {total:,}; line {number:,} of {longer} is the first "
                "without a partner: line i of one file must belong to line i of the other"
            )
        yield line, other


def _open_binary(path: str | Path) -> contextlib.AbstractContextManager[IO[bytes]]:
    if str(path) == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    if str(path).endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines to a file or to stdout; a file appears whole, under its own name, at the end.

    Raises:
        RunError: the place cannot be written or the disk is full; what stood there before stays.
    """
    if str(path) == "-":
        out = sys.stdout.buffer
        for line in lines:
            out.write(line.encode("utf-8") + b"\n")
            out.flush()
        return
    with replaced_file(path) as file:
        for line in lines:
            file.write(line.encode("utf-8") + b"\n")


@contextlib.contextmanager
def replaced_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` for writing; when the block ends well it is synced and renamed.

    A device or a pipe (``/dev/null``, a shell's ``>(…)``) is written as it is: it must not be replaced by a file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        try:
            with open(path, "wb") as special:
                yield special
        except OSError as error:
            raise write_error(path, error) from error
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as raw:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
                    yield packed  # type: ignore[misc]
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | Path) -> None:
    """Refuse an output path that cannot be written, before any work is done for it.

    Raises:
        InputError: its directory does not exist or refuses new files, or the path is a directory.
    """
    if str(path) == "-":
        return
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name a file in it")
    if path.exists() and not path.is_file():
        return  # a device or a pipe
    parent = path.parent
    if not parent.is_dir():
        raise InputError(f"{path}: cannot be written (no directory {parent}); make it first: mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: cannot be written (no permission in {parent}); choose another output path")


def write_error(path: str | Path, error: OSError) -> RunError:
    """The one-line failure for a write that the system refused."""
    advice = "free some space and run again" if error.errno == errno.ENOSPC else "check the path and its permissions"
    return RunError(f"{path}: cannot be written ({_reason(error)}); {advice}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
