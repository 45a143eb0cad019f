"""Translation memories: TMX, read as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from transformer_mt.errors import InputError
from transformer_mt.system.compression import READ_ERRORS, open_binary
from transformer_mt.system.lines import LONGEST_LINE, read_error

_BLOCK_BYTES = 1 << 16
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


_CODES = {"bpt", "ept", "it", "ph", "sub", "ut"}  # formatting of another program, and footnotes in it


def read_tmx(path: str, src_lang: str, tgt_lang: str) -> Iterator[tuple[str, str]]:
    """Yield the units of a TMX file. One without a text in both languages is a pair with an empty side.

    Entities are expanded by the parser, which has a limit for that, and nothing outside of the file is read.
    """
    units = _TmxUnits(src_lang, tgt_lang)
    parser = ElementTree.XMLParser(target=units)
    try:
        with open_binary(path) as file:
            while block := file.read(_BLOCK_BYTES):
                parser.feed(block)
                yield from units.take()
            parser.close()
            yield from units.take()
    except READ_ERRORS as error:
        raise read_error(path, error, units.num_found) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two are about encodings
        raise InputError(f"{path}: damaged XML ({error}); mend the file, or download it again") from None


class _TmxUnits:
    """Hears of elements from the parser and keeps the two texts of every unit, instead of a tree."""

    def __init__(self, src_lang: str, tgt_lang: str) -> None:
        self.num_found = 0
        self._langs = (_normalized(src_lang), _normalized(tgt_lang))
        self._pairs: list[tuple[str, str]] = []
        self._unit: dict[str, str] = {}  # text by language
        self._lang = ""
        self._text: list[str] = []
        self._length = 0  # of the text
        self._in_text = False
        self._num_codes = 0  # that are open

    def take(self) -> list[tuple[str, str]]:
        """Return the pairs that are complete and were not taken before."""
        taken, self._pairs = self._pairs, []
        return taken

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        match _local(tag):
            case "tu":
                self._unit = {}
            case "tuv":
                self._lang = _normalized(attributes.get(_XML_LANG) or attributes.get("lang", ""))
            case "seg":
                self._text, self._length, self._in_text = [], 0, True
            case name if name in _CODES:
                self._num_codes += 1

    def data(self, text: str) -> None:
        if self._in_text and self._num_codes == 0 and self._length <= LONGEST_LINE:  # more is refused in any case
            self._text.append(text)
            self._length += len(text)

    def end(self, tag: str) -> None:
        match _local(tag):
            case "tu":
                src, tgt = (_text_in(self._unit, lang) for lang in self._langs)
                self._pairs.append((src, tgt))
                self.num_found += 1
            case "seg":
                self._unit.setdefault(self._lang, "".join(self._text))  # of several variants, the first
                self._in_text = False
            case name if name in _CODES:
                self._num_codes -= 1


def _local(tag: str) -> str:
    """Return an element's name without its namespace."""
    return tag.rpartition("}")[2]


def _normalized(lang: str) -> str:
    return lang.lower().replace("_", "-")


def _text_in(unit: dict[str, str], lang: str) -> str:
    """Return what a unit says in a language, or else in a variety of it: en-US for en."""
    return unit.get(lang) or next((text for code, text in unit.items() if code.startswith(f"{lang}-")), "")
