"""Files as the line contract wants them.

Text is UTF-8, or in a named file UTF-16 or UTF-32. A byte order mark is dropped; lines end at LF only, a CR
before it is dropped; U+2028, NEL, VT and FF stay inside the line. What is written to a path that ends in ``.gz``,
``.zst``, ``.xz`` or ``.bz2`` is compressed, ``-`` is stdin or stdout.
What we write appears whole or not at all: a temporary name beside the target, then a rename.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from transformer_mt.errors import InputError
from transformer_mt.system.compression import COMPRESSED, READ_ERRORS
from transformer_mt.system.encodings import advice, open_text
from transformer_mt.system.whole_files import advice_on, reason_of, replaced_file

Item = TypeVar("Item", bound=Any)
_READ_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"

LONGEST_LINE = 4 << 20  # bytes that are read as one line: what a line takes in memory is bounded as well
TOO_LONG = "\ufdd0 a line that is too long \ufdd0"  # stands for one in a sentence pair; cleaning knows it
_END_OF_DOS = "\x1a"  # Ctrl-Z, with which some of its programs end files
OLD_LINE_ENDS = "end as on old Macs, with a carriage return alone; give them line feeds: tr '\\r' '\\n'"


def read_lines(path: str | Path, instead: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file, without their line ends, one at a time, in bounded memory.

    Args:
        instead: what a line of more than `LONGEST_LINE` bytes becomes; without it, such a line is refused.

    Raises:
        InputError: no such file, not readable, not UTF-8 (names the line), damaged compressed text, or a line that is
            too long.
    """
    number, is_rest = 0, False
    for lines, is_whole in _pieces(path):
        if is_rest:  # of a line that was too long
            del lines[0]
        if not is_whole and lines:
            if instead is None:
                raise InputError(
                    f"{_name(path)}, line {number + 1}: longer than {LONGEST_LINE >> 20} MiB; break it into lines"
                )
            lines = [instead]
        yield from lines
        number += len(lines)
        is_rest = not is_whole


class TextPart(NamedTuple):
    """A line, or a part of a line of more than `LONGEST_LINE` bytes, with what stands before and after it."""

    lead: str  # white space
    text: str
    end: str  # the line's end; white space where the line goes on


def read_parts(path: str | Path) -> Iterator[TextPart]:
    """Yield the lines of a text file, those that are too long in parts, cut at white space where there is some.

    Raises:
        InputError: as `read_lines` does but for the length.
    """
    is_rest = False
    for lines, is_whole in _pieces(path):
        for i, line in enumerate(lines):
            goes_on = not is_whole and i + 1 == len(lines)
            text = line.lstrip() if is_rest else line
            lead, rest = line[: len(line) - len(text)], text
            text = text.rstrip() if goes_on else text
            yield TextPart(lead, text, rest[len(text) :] if goes_on else "\n")
            is_rest = goes_on


def first_of(
    items: Iterable[Item], most: int, most_characters: int, length: Callable[[Item], int] = len
) -> Iterator[Item]:
    """Yield the first items, at most so many, up to the one with which they have so many characters."""
    for item in itertools.islice(items, most):
        yield item
        most_characters -= length(item)
        if most_characters <= 0:
            return


def _pieces(path: str | Path) -> Iterator[tuple[list[str], bool]]:
    """The lines of each block, and whether its last one is whole: of a line that is too long, each part is a block."""
    number = 0
    try:
        with open_text(path) as file:
            for i, (block, is_whole) in enumerate(_whole_lines(file)):
                if i == 0:
                    block = block.removeprefix(_BOM)
                try:
                    text = block.decode("utf-8")
                except UnicodeDecodeError as error:
                    start = block.rfind(b"\n", 0, error.start) + 1  # of the line that is not UTF-8
                    before = _split(block[:start].decode("utf-8"))[:-1]
                    if before:
                        yield before.copy(), True
                    raise InputError(
                        f"{_name(path)}, line {number + len(before) + 1}: not UTF-8 (byte "
                        f"0x{block[error.start]:02x} at offset {error.start - start} of the line); "
                        f"{advice(block, error)}"
                    ) from None
                lines = _split(text) if is_whole else [text]
                number += len(lines) if is_whole else 0
                yield lines, is_whole
    except READ_ERRORS as error:
        raise read_error(path, error, number) from None


def _whole_lines(file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """What is read, in blocks that end where a line does, without its LF: thousands of lines are decoded at once.

    A line of more than `LONGEST_LINE` bytes comes in parts of that size, each with False but the last.
    """
    parts: list[bytes] = []  # of a line whose end is still to come
    size = 0
    is_first = True
    while block := file.read1(_READ_BYTES):  # type: ignore[attr-defined]  # what there is, so that nobody waits
        end = block.rfind(b"\n")
        if size + len(block) > LONGEST_LINE:
            block = b"".join([*parts, block])
            parts.clear()
            while len(block) > LONGEST_LINE and b"\n" not in block[: LONGEST_LINE + 1]:
                cut = _cut(block)
                yield block[:cut], False
                block, is_first = block[cut:], False
            end, size = block.rfind(b"\n"), 0
        if end >= 0:
            yield b"".join([*parts, block[:end]]), True
            parts.clear()
            size, is_first = 0, False
        parts.append(block[end + 1 :])
        size += len(parts[-1])
    last = b"".join(parts)
    if last and not (is_first and last == _BOM):  # no LF at the end of the file
        yield last, True


def _cut(line: bytes) -> int:
    """Where to end the first part of a line that is too long: behind white space near its end, or a character."""
    space = max(line.rfind(white, LONGEST_LINE - _READ_BYTES, LONGEST_LINE) for white in (b" ", b"\t"))
    if space >= 0:
        return space + 1
    end = LONGEST_LINE
    while end > LONGEST_LINE - 4 and line[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def _split(text: str) -> list[str]:
    # At LF only; str.splitlines and text mode would also split at U+2028, NEL, VT, FF and CR.
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def count_lines(path: str | Path) -> int | None:
    """The lines of a file, as `read_lines` has them, for a progress bar; None of what can be read only once, or is
    damaged."""
    if not Path(path).is_file():
        return None
    count, last = 0, b"\n"
    try:
        with open_text(path) as file:
            block = file.read(1 << 20).removeprefix(_BOM)
            while block:
                count += block.count(b"\n")
                last = block[-1:]
                block = file.read(1 << 20)
    except (InputError, *READ_ERRORS):
        return None
    return count + (last != b"\n")


def ends_at_cr(path: str | Path) -> bool:
    """Return whether lines end at CR alone, as old programs for the Mac have it, by the beginning of a file."""
    try:
        with open_text(path) as file:
            start = file.read1(_READ_BYTES)  # type: ignore[attr-defined]
    except (InputError, *READ_ERRORS):  # who reads on is told
        return False
    return b"\r" in start and b"\n" not in start


def read_line_pairs(first: str | Path, second: str | Path, instead: str | None = None) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side; ``instead`` of those that are too long, as in `read_lines`.

    Raises:
        InputError: as `read_lines` does, or one file has more lines than the other.
    """
    if str(first) == str(second) == "-":
        raise InputError("stdin: cannot be both of two files; name a file for one")
    first_lines, second_lines = read_lines(first, instead), read_lines(second, instead)
    pairs = itertools.zip_longest(first_lines, second_lines)
    for number, (line, other) in enumerate(pairs, 1):
        if line is None or other is None:
            longer, shorter = (first, second) if other is None else (second, first)
            total, is_rest_blank = number, not (line or other or "").strip().strip(_END_OF_DOS)
            for rest in pairs:
                total += 1
                is_rest_blank = is_rest_blank and not any(one and one.strip() for one in rest)
            remedy = "line i of one file must belong to line i of the other"
            if is_rest_blank:
                remedy = f"from there on {longer} is blank; remove the blank lines at its end"
            if Path(shorter).is_file() and ends_at_cr(shorter):
                remedy = f"the lines of {shorter} {OLD_LINE_ENDS}"
            raise InputError(
                f"{shorter} has {number - 1:,} lines, {longer} {total:,}; line {number:,} of {longer} is the first "
                f"without a partner: {remedy}"
            )
        yield line, other


def read_error(path: str | Path, error: Exception, number: int) -> InputError:
    """The one-line refusal of a file that could be read up to line ``number`` only."""
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{_name(path)}: cannot be read ({reason_of(error)}); {advice_on(error)}")
    suffix = Path(path).suffix
    kind = COMPRESSED.get(suffix, "compressed")
    if "too much memory" in str(error):  # Zstandard's: --long=31
        return InputError(
            f"{path}: takes more memory to read than is allowed ({error}); compress it anew without --long"
        )
    if number == 0:
        hint = f", or take {suffix} off its name if it is not compressed" if suffix in COMPRESSED else ""
        return InputError(f"{path}: damaged {kind} file, or none at all ({error}); copy or download it again{hint}")
    return InputError(f"{path}: damaged {kind} file after line {number} ({error}); copy or download it again")


def _name(path: str | Path) -> str:
    return "stdin" if str(path) == "-" else str(path)


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines to a file or to stdout; a file appears whole, under its own name, at the end.

    Raises:
        RunError: the place cannot be written or the disk is full; what stood there before stays.
    """
    write_texts(path, (f"{line}\n" for line in lines))


def write_texts(path: str | Path, texts: Iterable[str]) -> None:
    """Write texts, one behind the other, as `write_lines` writes lines.

    Raises:
        RunError: as `write_lines`.
    """
    encoded = (text.encode("utf-8", "replace") for text in texts)  # a path may have bytes of other encodings
    if str(path) == "-":
        for part in encoded:
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
        return
    with replaced_file(path) as file:
        for part in encoded:
            file.write(part)
