"""Rows in JSON: one object a line, or an array of objects, alone or in an object, in bounded memory."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from transformer_mt.data.readers.tables import Columns, cells_of, texts_of
from transformer_mt.errors import InputError
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG, first_of, read_lines, read_parts

_BLOCK = 1 << 16  # characters
_SPACE = re.compile(r"[ \t\r\n]*")
_VALUE = re.compile(r"\s*:\s*(\[\s*\{)?")  # begins behind it, or is an array of objects
_COMMA = re.compile(r"\s*,\s*")
_MOST_LINES = 50  # of the beginning, in which the array of an object begins
_DECODER = json.JSONDecoder()


def read_json(path: str, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yield two columns of lines that are one JSON object each, or of the objects of one array.

    A blank line is a pair of two empty sides, so that a pair's number stays its line's.

    Raises:
        InputError: it cannot be read, is not JSON, or has no such columns; the message names the line.
    """
    like: dict[Any, Any] | None = None  # a row with text in both
    for origin, row in json_rows(path):
        if isinstance(row, tuple):
            yield row
            continue
        cells = cells_of(row, columns, origin)
        src, tgt = texts_of(cells, columns, origin, like)
        if like is None and src and tgt:
            like = cells
        try:
            (src + tgt).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise InputError(f"{origin}: half a character ({half!a}, a lone surrogate); mend the line") from None
        yield src, tgt


def json_rows(path: str) -> Iterator[tuple[str, Any]]:
    """Yield where each row is, in words, and the row, whatever it is; a pair that stands for a row that is none.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    start = next((part.text.lstrip()[0] for part in read_parts(path) if part.text.strip()), "")
    return _array(path) if start == "[" or (start == "{" and _is_around_an_array(path)) else _lines(path)


def _is_around_an_array(path: str) -> bool:
    """Whether a file is one object, {"data": [{…}, …]}, and not one a line."""
    texts = first_of((part.text for part in read_parts(path) if part.text.strip()), _MOST_LINES, _BLOCK)
    if not _has_array("\n".join(texts)[:_BLOCK]):
        return False
    first, *others = itertools.islice((line for line in read_lines(path, TOO_LONG) if line.strip()), 2)
    if not others:
        return True
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos >= len(first.rstrip())  # it goes on in the next line
    except (RecursionError, ValueError):
        pass
    return False


def _has_array(beginning: str) -> bool:
    """Whether one of the values of an object, of which this is the beginning, is an array of objects."""
    place = _SPACE.match(beginning, beginning.index("{") + 1).end()  # type: ignore[union-attr]
    try:
        while True:
            _, place = _DECODER.raw_decode(beginning, place)  # a key
            if not (value := _VALUE.match(beginning, place)):
                return False
            if value[1]:
                return True
            _, place = _DECODER.raw_decode(beginning, value.end())
            if not (comma := _COMMA.match(beginning, place)):
                return False
            place = comma.end()
    except (RecursionError, ValueError):
        return False


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    """Where each row is, in words, and the row, or the pair that stands for one."""
    for number, line in enumerate(read_lines(path, TOO_LONG), 1):
        origin = f"{path}, line {number}"
        if line == TOO_LONG or not line.strip():
            yield origin, ((line, line) if line == TOO_LONG else ("", ""))
            continue
        try:
            yield origin, json.loads(line)
        except json.JSONDecodeError as error:
            if line.strip() == "{":  # indented
                raise InputError(
                    f"{path}: one object over several lines, not rows; write an array or one object a line (pandas: "
                    "orient='records', lines=True; keys and texts: json2po, Translate Toolkit)"
                ) from None
            if line.startswith("\ufeff"):
                raise InputError(
                    f"{origin}: begins with a byte order mark, as where files were joined; remove it"
                ) from None
            raise InputError(
                f"{origin}: not JSON ({error.msg} at character {error.pos + 1}); mend the line (one object a "
                "line, or all in one array)"
            ) from None
        except (RecursionError, ValueError) as error:  # lists in lists in lists …, numbers of thousands of digits
            raise InputError(f"{origin}: unusable JSON ({error}); mend the line") from None


def _array(path: str) -> Iterator[tuple[str, Any]]:
    text = _ArrayText(path)
    is_inside = text.go_inside()
    if not is_inside:
        text.take("[")
    if not text.take("]"):
        yield text.row()
        while text.take(","):
            yield text.row()
        if not text.take("]"):
            raise InputError(f"{text.origin()}: not JSON (',' or ']' expected behind it); mend the file")
    if is_inside:
        text.go_outside()
    if text.rest():
        raise InputError(f"{text.origin()}: not JSON (there is more behind the array); mend the file")


class _ArrayText:
    """The text of a file that holds an array; what was read of it is forgotten."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._parts = read_parts(path)
        self._text, self._place = "", 0
        self._line, self._row = 1, 0

    def origin(self) -> str:
        return f"{self._path}, line {self._line} (row {self._row:,} of its array)"

    def go_inside(self) -> bool:
        """Go into the first array of objects in the object that the text is; False where it is none."""
        if not self.take("{"):
            return False
        while True:
            self.row()  # a key
            self.take(":")
            if not self.take("["):
                self.row()
            elif self.rest() == "{":
                self._row = 0
                return True
            else:
                while not self.take("]"):
                    self.row()
                    self.take(",")
            self.take(",")

    def go_outside(self) -> None:
        """Go to the end of the object, behind its array.

        Raises:
            InputError: it does not end, or has another array of objects.
        """
        while self.take(","):
            _, key = self.row()
            self.take(":")
            _, value = self.row()
            if isinstance(value, list) and any(isinstance(one, dict) for one in value):
                raise InputError(f"{self._path}: has another array of rows, {key!r}; write each into a file of its own")
        if not self.take("}"):
            raise InputError(f"{self.origin()}: not JSON ('}}' expected behind it); mend the file")

    def take(self, character: str) -> bool:
        """Return whether a character comes next, behind white space, and go past it."""
        if self.rest()[:1] != character:
            return False
        self._go_to(self._place + 1)
        return True

    def row(self) -> tuple[str, Any]:
        """Return where the next row is, in words, and the row."""
        self.rest()
        self._row += 1
        size = _BLOCK
        while True:
            try:
                row, end = _DECODER.raw_decode(self._text, self._place)
                break
            except (RecursionError, ValueError) as error:
                if size > LONGEST_LINE or not self._read(size):  # it may only be cut off
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    raise InputError(f"{self.origin()}: not JSON ({reason}); mend the file") from None
                size *= 2
        origin = self.origin()
        self._go_to(end)
        return origin, row

    def rest(self) -> str:
        """Return text that comes next, behind white space; nothing at the end of the file."""
        while True:
            self._go_to(_SPACE.match(self._text, self._place).end())  # type: ignore[union-attr]
            if self._place < len(self._text) or not self._read(_BLOCK):
                return self._text[self._place : self._place + 1]

    def _go_to(self, place: int) -> None:
        self._line += self._text.count("\n", self._place, place)
        self._place = place

    def _read(self, size: int) -> bool:
        """Read on until there are some characters more; False at the end of the file."""
        new = [self._text[self._place :]]
        num_new = 0
        while num_new < size and (part := next(self._parts, None)) is not None:
            new += part
            num_new += sum(map(len, part))
        self._text, self._place = "".join(new), 0
        return num_new > 0
