"""Catalogues of messages: gettext's PO files."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator
from typing import Any

from transformer_mt.data.readers.languages import is_turned, not_among
from transformer_mt.errors import InputError
from transformer_mt.system.compression import READ_ERRORS, open_binary
from transformer_mt.system.lines import LONGEST_LINE, read_error, read_lines

_LINES_AT_ONCE = 2000  # polib takes whole files, which may be larger than memory
_CHARSET = re.compile(rb'^(?:msgstr)?[ \t]*"[^\n\r]*charset=([\w.:-]+)', re.IGNORECASE | re.MULTILINE)  # no comment's
_TELLING_COMMENTS = ("#,", "#~")  # flags (fuzzy) and obsolete messages; all others say nothing of the pairs
_UTF8 = {"utf-8", "utf8", "ascii", "us-ascii", "charset"}  # "CHARSET" stands in templates


def read_po(path: str, src_lang: str, tgt_lang: str) -> Iterator[tuple[str, str]]:
    """Yield the messages of a PO file and their translations; what is fuzzy counts as not translated.

    A message with plural forms is a pair for the singular, and one of the plural for each other form. Obsolete messages
    are left out. A catalogue in the source language is read the other way round, for messages in English.

    Raises:
        InputError: it cannot be read, is no PO file, or is in another language.
    """
    import polib  # needed by those who name a catalogue only

    is_first, turned, singular = True, False, 0
    for number, lines in _parts(path):
        try:
            part = polib.pofile(_Text("\n".join(lines)))
        except (OSError, ValueError) as error:
            place = re.search(r"\(line (\d+)\)(?:: (.*))?", str(error))
            line, reason = (number + int(place[1]), place[2]) if place else (number + 1, str(error))
            raise InputError(
                f"{path}, line {line}: not as in a PO file" + (f" ({reason})" if reason else "") + "; mend it"
            ) from None
        if is_first:
            turned = _is_turned(path, part.metadata, (src_lang, tgt_lang))
            singular = _singular(part.metadata.get("Plural-Forms", ""))
            is_first = False
        for entry in part:
            if not entry.obsolete:
                for text, translation in _pairs(entry, singular):
                    yield (translation, text) if turned else (text, translation)


class _Text(str):
    """A text that polib splits at LF only, and not at U+2028 and others inside of a message."""

    __slots__ = ()

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self.split("\n")


def lines_of(path: str) -> Iterator[str]:
    """The lines of a file in the encoding that its header names."""
    try:
        with open_binary(path) as file:
            charset = _CHARSET.search(file.read(1 << 16))
            encoding = charset[1].decode().lower() if charset else "utf-8"
        if encoding in _UTF8:
            yield from read_lines(path)
            return
        with open_binary(path) as file:
            while line := file.readline(LONGEST_LINE):
                yield line.decode(encoding).rstrip("\r\n")
    except READ_ERRORS as error:
        raise read_error(path, error, 0) from None
    except (LookupError, ValueError) as error:
        raise InputError(f"{path}: not in the encoding that its header names ({error}); mend the file") from None


def _parts(path: str) -> Iterator[tuple[int, list[str]]]:
    """Some thousand lines at a time, each with the number of lines before; no entry is cut."""
    number, is_translation = 0, False
    part: list[str] = []
    for line in map(str.strip, lines_of(path)):  # as polib has them: what is indented is no less a line
        if line.startswith("#") and not line.startswith(_TELLING_COMMENTS):
            line = "#"  # polib refuses those that are not gettext's own: "#comment", "#= no-wrap"
        if line and not line.startswith("#") and not line.endswith('"'):
            raise InputError(f"{path}, line {number + len(part) + 1}: not as in a PO file (no text in quotes); mend it")
        is_end = is_translation and not line.startswith(('"', "msgstr"))
        if len(part) >= _LINES_AT_ONCE and is_end:
            yield number, part
            number, part = number + len(part), []
        part.append(line)
        if line.startswith(("msg", "#")):
            is_translation = line.startswith("msgstr")
    yield number, part


def _is_turned(path: str, header: dict[str, str], wanted: tuple[str, str]) -> bool:
    src, tgt = (header.get(key, "").partition("@")[0] for key in ("X-Source-Language", "Language"))
    turned = is_turned(wanted, (src, tgt))
    if turned and not src:  # then it has to be English
        turned = is_turned(wanted, ("en", tgt))
    if turned is None:
        raise InputError(f"{path}: {not_among(wanted, [src, tgt] if src else [tgt])}")
    return turned


def _singular(rule: str) -> int:
    """Return which plural form is for one thing, by the rule in a header."""
    formula = re.search(r"plural\s*=\s*([^;]+)", rule)
    try:
        return gettext.c2py(formula[1].strip())(1) if formula else 0
    except (ValueError, ZeroDivisionError, RecursionError):
        return 0


def _pairs(entry: Any, singular: int) -> Iterator[tuple[str, str]]:
    if not entry.msgid_plural:
        yield entry.msgid, "" if entry.fuzzy else entry.msgstr
        return
    forms: dict[int, str] = entry.msgstr_plural
    # The only form, of languages without a plural, is for any number: "%d files", but not "one file".
    of_one = {singular: entry.msgid} if len(forms) > 1 else {}
    texts = {index: text for index, text in sorted(forms.items()) if text and not entry.fuzzy}
    pairs = dict.fromkeys((of_one.get(index, entry.msgid_plural), text) for index, text in texts.items())
    yield from pairs or [(entry.msgid_plural, "")]
