"""XML files of translation units, read as a stream.

Entities are expanded by the parser, which has a limit for that, and nothing outside of the file is read.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import IO
from xml.etree import ElementTree
from xml.parsers.expat import errors

from transformer_mt.errors import InputError
from transformer_mt.system.compression import READ_ERRORS, open_binary
from transformer_mt.system.encodings import advice_on_archive
from transformer_mt.system.lines import read_error

_BLOCK_BYTES = 1 << 16
_CONTINUED = bytes(range(0x80, 0xC0))  # of a character that the block before cuts off
_INVALID_TOKEN = errors.codes[errors.XML_ERROR_INVALID_TOKEN]
_REMEDIES = {
    errors.codes[error]: remedy
    for error, remedy in (
        (errors.XML_ERROR_MISPLACED_XML_PI, "remove what stands before <?xml, blank lines too"),
        (errors.XML_ERROR_BAD_CHAR_REF, "a reference stands for a control character, which XML has not; remove it"),
        (
            errors.XML_ERROR_UNDEFINED_ENTITY,
            "XML knows &amp; &lt; &gt; &quot; and &apos; alone; write the character itself, a space for &nbsp;",
        ),
    )
}
_BARE = re.compile(rb"&(?![A-Za-z_#][\w.-]*;)")  # which begins no reference
_CONTROLS = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]")  # that XML does not allow
_DECLARED = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class Units:
    """Hears of elements from the parser and makes pairs of them, instead of a tree."""

    def __init__(self, kind: str) -> None:
        self.num_found = 0
        self.root = ""  # the first element
        self._kind = kind
        self._pairs: list[tuple[str, str]] = []

    def add(self, src: str, tgt: str) -> None:
        self._pairs.append((src, tgt))
        self.num_found += 1

    def take(self) -> list[tuple[str, str]]:
        """Return the pairs that are complete and were not taken before."""
        taken, self._pairs = self._pairs, []
        return taken

    def refusal(self) -> str | None:
        """Return what is wrong with the file as a whole, at its end."""
        if self.root == self._kind:
            return None
        known = f"read it as {self.root}" if self.root in ("tmx", "xliff") else "check what kind of file it is"
        return f"no {self._kind.upper()} file (its first element is {self.root!r}); {known}"


def read_units(path: str, units: Units) -> Iterator[tuple[str, str]]:
    """Yield the pairs that ``units`` makes of a file.

    Raises:
        InputError: it cannot be read, is damaged, or is refused by ``units``.
    """
    parser = ElementTree.XMLParser(target=units)
    latest: bytes | str = b""
    try:
        with open_binary(path) as file:
            if reason := advice_on_archive(file.peek(_BLOCK_BYTES)):  # type: ignore[attr-defined]
                raise InputError(f"{path}: {reason}")
            for block in _blocks(file):
                latest = block
                parser.feed(block)
                yield from units.take()
            parser.close()
            yield from units.take()
    except READ_ERRORS as error:
        raise read_error(path, error, units.num_found) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two are about encodings
        raise InputError(f"{path}: damaged XML ({error}); {_remedy(error, latest)}") from None
    if reason := units.refusal():
        raise InputError(f"{path}: {reason}")


def local(tag: str) -> str:
    """Return an element's name without its namespace."""
    return tag.rpartition("}")[2]


def _remedy(error: Exception, block: bytes | str) -> str:
    """Return what to do about an error in a block: the parser has one name for all characters that it does not take."""
    if isinstance(error, ElementTree.ParseError) and error.code == _INVALID_TOKEN:
        content = block.encode("utf-8", "replace") if isinstance(block, str) else block
        if control := _CONTROLS.search(content):
            return f"XML has no control characters, as U+{ord(control[0]):04X} here; remove them"
        try:
            codecs.getincrementaldecoder("utf-8")().decode(content.lstrip(_CONTINUED))
        except UnicodeDecodeError:
            return 'it is not UTF-8; name its encoding in the first line: <?xml version="1.0" encoding="ISO-8859-1"?>'
        if _BARE.search(content):
            return "an & that begins no reference is written &amp; in XML"
    if isinstance(error, ElementTree.ParseError) and error.code in _REMEDIES:
        return _REMEDIES[error.code]
    return "mend the file, or download it again"


def _blocks(file: IO[bytes]) -> Iterator[bytes | str]:
    """Yield the content, decoded where the parser does not know the encoding: it has none of several bytes but UTF."""
    block = file.read(_BLOCK_BYTES)
    declared = _DECLARED.match(block.removeprefix(codecs.BOM_UTF8))
    encoding = declared[1].decode().lower() if declared else "utf-8"
    if encoding.startswith(("utf-16", "ucs-2")):  # but this could be read, so it is not: some programs are wrong there
        encoding = "utf-8-sig"
    if block.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # some programs declare UTF-8 all the same
        encoding = "utf-16"
    if encoding == "utf-8":
        while block:
            yield block
            block = file.read(_BLOCK_BYTES)
        return
    b"<".decode(encoding, "ignore")  # refuses what is no encoding of text
    decoder = codecs.getincrementaldecoder(encoding)()
    while block:
        yield decoder.decode(block)
        block = file.read(_BLOCK_BYTES)
    yield decoder.decode(b"", final=True)
