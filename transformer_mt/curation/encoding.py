"""Damage to the encoding of text that is seen in single lines."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from transformer_mt.curation.common import share
from transformer_mt.data.pairs import NamedSource
from transformer_mt.data.readers.sources import source_files
from transformer_mt.errors import InputError
from transformer_mt.system.compression import READ_ERRORS, open_binary
from transformer_mt.system.lines import LONGEST_LINE
from transformer_mt.system.processes import on_all_cores

MAX_EXAMPLES = 5
_BLOCK_BYTES = 1 << 20
_TEXT_KINDS = {"src", "moses", "tsv", "jsonl"}  # sources whose files are lines of text

# Characters that UTF-8's continuation bytes become when they are read as Windows-1252 (which lacks five of them).
_TAIL = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xC0))
# First bytes of two: where Â or Ã stands for one, almost nothing else is meant. With others (É », in capitals), two
# such characters have to follow each other. Of three bytes: typographic marks (â€™), or two characters; é » is French.
_MOJIBAKE = re.compile(
    f"[ÂÃ][{_TAIL}]|(?:[Ä-ß][{_TAIL}]){{2}}|â[€‚„†ˆ][{_TAIL}]|(?:[à-ï][{_TAIL}]{{2}}){{2}}|ð[\x90Ÿ][{_TAIL}]{{2}}"
)
_CONTROL = re.compile("[\x01-\x08\x0a-\x1f\x7f-\x9f]")

NOT_UTF8 = "are not UTF-8"
TOO_LONG = f"are longer than {LONGEST_LINE >> 20} MiB"
_FAULTS = {
    "NUL": "hold a NUL character",
    "control": "hold control characters",
    "lost": "hold U+FFFD, which stands for a character that was lost",
    "bom": "hold a byte order mark that is not at the start of the file",
    "mojibake": "hold UTF-8 that was read as Windows-1252 (Ã¤ for ä, â€™ for ’)",
    "nfc": "are not in Unicode's normal form NFC",
}


@dataclass
class Fault:
    """How many lines have it, and the first of them."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, count: int, lines: list[int]) -> None:
        self.count += count
        self.lines = [*self.lines, *lines][:MAX_EXAMPLES]


class _Job(NamedTuple):
    first: int  # number of the first line, from 1
    lines: list[bytes]


def encoding_findings(named: NamedSource) -> Iterator[str]:
    """A line for each file and fault. Files of other kinds than lines of text say themselves how they are encoded."""
    if named.source.kind not in _TEXT_KINDS:
        return
    try:
        paths = source_files(named.source, *named.languages)
    except InputError:
        return  # whoever reads the pairs says so
    for path in paths:
        num_lines, faults = find_faults(path)
        for what, fault in faults.items():
            numbers = ", ".join(f"{line:,}" for line in fault.lines)
            more = ", …" if fault.count > len(fault.lines) else ""
            lines = "line" if fault.count == 1 else "lines"
            yield f"{path}: {share(fault.count, num_lines)} of {num_lines:,} lines {what}: {lines} {numbers}{more}"


def find_faults(path: str) -> tuple[int, dict[str, Fault]]:
    """The number of lines of a file, and what is wrong with some of them, up to where it can be read."""
    num_lines = 0
    found: dict[str, Fault] = {}

    def blocks() -> Iterator[_Job]:
        nonlocal num_lines
        try:
            with open_binary(path) as file:
                while lines := _read_block(file):
                    yield _Job(num_lines + 1, lines)
                    num_lines += len(lines)
        except READ_ERRORS:
            return  # whoever reads the pairs says so

    for faults in on_all_cores(_faults_in, blocks()):
        for name, fault in faults.items():
            found.setdefault(name, Fault()).add(fault.count, fault.lines)
    return num_lines, found


def _read_block(file: IO[bytes]) -> list[bytes]:
    """The next lines; of one that is too long only the beginning, by which it is known."""
    lines: list[bytes] = []
    size = 0
    while size < _BLOCK_BYTES and (line := file.readline(LONGEST_LINE + 1)):
        lines.append(line)
        size += len(line)
        while _is_too_long(line) and (rest := file.readline(_BLOCK_BYTES)) and not rest.endswith(b"\n"):
            pass
    return lines


def _is_too_long(line: bytes) -> bool:
    return len(line) > LONGEST_LINE and not line.endswith(b"\n")


def _faults_in(job: _Job) -> dict[str, Fault]:
    found: dict[str, Fault] = {}
    for number, line in enumerate(job.lines, job.first):
        for fault in faults_of(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line):
            found.setdefault(fault, Fault()).add(1, [number])
    return found


def faults_of(line: bytes) -> list[str]:
    """What is wrong with a line, in words that follow "so many lines"."""
    if _is_too_long(line):
        return [TOO_LONG]
    try:
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        return [NOT_UTF8]
    found = {
        "NUL": "\0" in text,
        "control": _CONTROL.search(text) is not None,
    }
    if not text.isascii():
        found |= {
            "lost": "\ufffd" in text,
            "bom": "\ufeff" in text,
            "mojibake": _MOJIBAKE.search(text) is not None,
            "nfc": not unicodedata.is_normalized("NFC", text),
        }
    return [_FAULTS[name] for name, is_there in found.items() if is_there]
