"""Text files as UTF-8: UTF-16 and UTF-32 are turned into it, with a byte order mark or where that gives plain text of
one script; what else is none is named."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from transformer_mt.errors import InputError
from transformer_mt.system.compression import open_binary

_READ_BYTES = 1 << 16

# The mark of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_WITH_CJK = ("HIRAGANA", "KATAKANA", "HALFWIDTH", "FULLWIDTH", "HANGUL", "IDEOGRAPHIC")  # stand beside its ideographs
_WHITE = "\t\n\v\f\r\x85"
# Of the characters of UTF-8 text that has a zero in it, tabs and line ends among them. What is UTF-16 looks like half
# of them: zeros or, in each letter of Devanagari (0x0915) or Gurmukhi (0x0A15), tabs or line ends.
_MOST_CONTROLS = 0.2
_WITH_BLANKS = re.compile("[\u0900-\u0aff]")  # letters with the byte of a tab or line end
_FEW_CHARACTERS = 10  # tell nothing: they are of one script by chance
_OF_ONE_SCRIPT = 0.95  # of the letters, at least

# Text of bytes below 128, as in old mails, with what begins a row of other letters, and ends it.
_SEVEN_BITS = {
    "ISO-2022-KR": re.compile(rb"\x1b\$\)C.*\x0e", re.DOTALL),
    "ISO-2022-CN": re.compile(rb"\x1b\$\)[AG].*\x0e", re.DOTALL),
    "ISO-2022-JP-2": re.compile(rb"\x1b\$(?:[@AB]|\([CD]).*\x1b\(", re.DOTALL),  # which reads ISO-2022-JP as well
}

# Which letters make up which share of those beyond ASCII at least: the commonest. Bytes of ideographs in one of these
# encodings are letters of the next as well, but rare ones.
_EAST_ASIAN = (
    ("CP949", "Korean", "이다는을의에하가고지한로은사도", 0.1),
    ("CP932", "Japanese", "のにはをたがでてとしれさいなる", 0.1),
    ("EUC-JP", "Japanese", "のにはをたがでてとしれさいなる", 0.1),
    ("CP950", "Chinese", "的一是不了在人有我他這中大來上", 0.05),
    ("GB18030", "Chinese", "的一是不了在人有我他这中大来上", 0.05),
)

_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive (or a document of an office program)",
    b"\xd0\xcf\x11\xe0": "a document of an old office program (.xls, .doc)",
    b"\x1f\x8b": "compressed twice",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"\x5d\0\0": "compressed by lzma",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF",
}
# Those that have zeros, which begin as no text does.
_ARROW = "a table of Arrow or Feather; save it as Parquet (a saved data set is read with hub: FOLDER)"
_CATALOGUE = "a compiled catalogue of messages (.mo); make a .po of it: msgunfmt"
_PICKLE = "a pickle of Python's; save its text as Parquet"
_BINARIES = {
    **dict.fromkeys((b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"), _CATALOGUE),
    **dict.fromkeys((b"ARROW1\0\0", b"FEA1", b"\xff\xff\xff\xff"), _ARROW),  # the last: as data sets are saved
    **dict.fromkeys((b"\x80\x04\x95", b"\x80\x05\x95"), _PICKLE),
    b"PAR1": "Parquet; name it .parquet",
    b"SQLite format 3\0": "a database of SQLite; export its text",
}


@contextlib.contextmanager
def open_text(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a text file, or stdin, which is always UTF-8, for reading as UTF-8.

    Raises:
        READ_ERRORS: as `open_binary`.
        InputError: a file in another encoding that is known by its first bytes.
    """
    with open_binary(path) as file:
        if str(path) == "-":
            yield file
            return
        start = file.peek(_READ_BYTES)[:_READ_BYTES]  # type: ignore[attr-defined]
        if start[257:262] == b"ustar":
            raise InputError(f"{path}: it is a tar archive: take the text out of it (tar xf)")
        for mark, encoding in _MARKS.items():
            if start.startswith(mark):
                file.read(len(mark))
                yield io.BufferedReader(_AsUtf8(path, file, encoding), _READ_BYTES)
                return
        for magic, name in _BINARIES.items():
            if b"\0" in start and start.startswith(magic):
                raise InputError(f"{path}: it is {name}")
        if b"\0" in start:  # spaces and line ends have one in each of these encodings, and UTF-8 has none
            if (unnamed := unmarked(start)) is not None:
                yield io.BufferedReader(_AsUtf8(path, file, unnamed), _READ_BYTES)
                return
            if (guess := _by_zeros(start)) is not None:
                raise InputError(
                    f"{path}: it is {guess} without a byte order mark, or no text; if it is text, convert the file: "
                    f"iconv -f {guess} -t UTF-8"
                )
        for encoding, escapes in _SEVEN_BITS.items():
            if b"\x1b$" in start and start.isascii() and escapes.search(start):
                raise InputError(f"{path}: it is {encoding}; convert the file: iconv -f {encoding} -t UTF-8")
        yield file


def unmarked(start: bytes) -> str | None:
    """Return which of UTF-16 and UTF-32 a file without a mark is: that which makes text of one script of its start."""
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
        if sum(character < " " for character in text) < _MOST_CONTROLS * len(text):
            return None
    for encoding in _MARKS.values():
        with contextlib.suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(start)
            # What looks like a line end, a tab or a space is one, as a rule, and not a part of another character.
            in_bytes = _num_blanks(start.decode("latin-1")) - len(_WITH_BLANKS.findall(text))
            if 4 * _num_blanks(text) >= in_bytes and _is_of_one_script(text):
                return encoding
    return None


def _num_blanks(text: str) -> int:
    return sum(map(text.count, "\n\t "))


def _is_of_one_script(text: str) -> bool:
    """Whether it has letters, nearly all of one script or Latin, as tables of two languages have, and no characters
    that text has not: what the other byte order, or another encoding, makes of text is of many."""
    if len(text) < _FEW_CHARACTERS or any(map(_is_no_text, text)):
        return False
    scripts: dict[str, int] = {}
    for character in filter(str.isalpha, text):
        script = unicodedata.name(character, "").partition(" ")[0]
        script = "CJK" if script in _WITH_CJK else script
        scripts[script] = scripts.get(script, 0) + 1
    most = max(scripts.keys() - {"LATIN"}, key=lambda one: scripts[one], default="")
    own = sum(scripts.get(script, 0) for script in {most, "LATIN"})
    return 0 < own >= _OF_ONE_SCRIPT * sum(scripts.values())


def _is_no_text(character: str) -> bool:
    """Whether a character is a control other than a tab or line end, or none that Unicode has given a meaning."""
    return character not in _WHITE and unicodedata.category(character) in ("Cc", "Cn", "Co")


def _by_zeros(start: bytes) -> str | None:
    """Return which of UTF-16 and UTF-32 it may be by the zeros in it, which letters of Latin and line ends have."""
    if len(start) < 2 * _FEW_CHARACTERS:
        return None
    zeros = [start[place::4].count(0) * 4 / len(start) for place in range(4)]
    if min(zeros[1:]) > 0.9 and zeros[0] < 0.1:
        return "UTF-32LE"
    if min(zeros[:3]) > 0.9 and zeros[3] < 0.1:
        return "UTF-32BE"
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    if max(even, odd) > 0.3 and min(even, odd) < 0.02:
        return "UTF-16BE" if even > odd else "UTF-16LE"
    return None


def advice(block: bytes, error: UnicodeDecodeError) -> str:
    """Return what to do about bytes that are not UTF-8, as far as these tell."""
    if (archive := advice_on_archive(block)) is not None:
        return archive
    # First, as two of their bytes may be a letter of UTF-8 by chance.
    if (found := _of_east_asia(block)) is not None:
        return f"it looks like {found[1]} in {found[0]}; convert it: iconv -f {found[0]} -t UTF-8"
    if any(byte >= 0x80 for byte in block[: error.start]):
        return "the text before it is UTF-8: mend this line, or remove it"
    return (
        "find out which encoding the file has, and convert it: iconv -f ENCODING -t UTF-8 (or have its program save it "
        "as UTF-8)"
    )


def _of_east_asia(block: bytes) -> tuple[str, str] | None:
    """Return the encoding and the language of lines in which those of Korea, Japan or China make plain text.

    Those of one byte a letter are not told: each makes letters of any bytes, and what they are is for a reader to see.
    """
    for encoding, language, common, share in _EAST_ASIAN:
        with contextlib.suppress(UnicodeDecodeError):
            letters = [letter for letter in block.decode(encoding) if letter.isalpha() and not letter.isascii()]
            if len(letters) >= _FEW_CHARACTERS and sum(letter in common for letter in letters) >= share * len(letters):
                return encoding, language
    return None


def advice_on_archive(block: bytes) -> str | None:
    """Return what to do about a file that is not text, but has some in it, by its first bytes."""
    for start, name in _ARCHIVES.items():
        if block.startswith(start):
            return f"it is {name}: take the text out of it"
    return None


class _AsUtf8(io.RawIOBase):
    def __init__(self, path: str | Path, file: IO[bytes], encoding: str) -> None:
        self._path, self._file, self._encoding = path, file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            while not self._rest:
                block = self._file.read(_READ_BYTES)
                self._rest = self._decoder.decode(block, final=not block).encode()
                if not block:
                    break
        except UnicodeDecodeError as error:
            name = self._encoding.upper()
            raise InputError(f"{self._path}: damaged {name} text ({error.reason}); copy it again") from None
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
