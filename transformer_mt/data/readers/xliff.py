"""XLIFF 1.2 and 2.x: what programs exchange while a document is translated."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, MutableMapping

from transformer_mt.data.readers.inline_codes import SegmentText
from transformer_mt.data.readers.languages import MAX_CODES, is_turned, not_among
from transformer_mt.data.readers.xml_units import Units, local, read_units

# Targets that nobody has looked at: copies of the source, or what a program proposes. The last is XLIFF 2's, where a
# segment says so; by its rules it counts where nothing is said, too, which programs write whatever is there. And those
# that somebody has looked at and found wrong, in memoQ and in Trados.
_UNTRANSLATED = {
    *("new", "needs-translation", "needs-adaptation", "needs-l10n", "initial"),
    *("Rejected", "RejectedTranslation", "RejectedSignOff"),
}
_MEMOQ_STATE = "{MQXliff}status"
_PHRASE = "{http://www.memsource.com/mxlf/"  # its attributes
_PHRASE_CODE = re.compile(r"\{\w+>|<\w+\}")  # formatting: {b>bold<b}; {1} alone is a placeholder, and stays


def read_xliff(path: str, src_lang: str, tgt_lang: str) -> Iterator[tuple[str, str]]:
    """Yield the units of an XLIFF file, in segments where both sides have the same; files in other languages are none.

    A unit that is not translated is a pair with an empty target; one that is not to be translated is none. Files from
    the wanted target into the wanted source language are read the other way round.
    """
    return read_units(path, _XliffUnits(src_lang, tgt_lang))


class _Side:
    """One side of a unit: its text and, by their ids, the texts of the segments that are marked in it."""

    def __init__(self, codes: MutableMapping[str, str]) -> None:
        self.texts = {"": SegmentText(codes)}
        self._codes = codes
        self._open: list[str] = []  # the segment that each open element is in

    def start(self, name: str, attributes: dict[str, str]) -> None:
        for part in self._parts():
            self.texts[part].start(name, attributes)
        marked = self._open[-1] if self._open else ""
        if name == "mrk" and attributes.get("mtype") == "seg" and not marked:
            marked = attributes.get("mid", "")
            self.texts.setdefault(marked, SegmentText(self._codes))  # it may be in parts, or have no name
        self._open.append(marked)

    def data(self, text: str) -> None:
        for part in self._parts():
            self.texts[part].data(text)

    def end(self) -> None:
        self._open.pop()
        for part in self._parts():
            self.texts[part].end()

    def _parts(self) -> set[str]:
        return {"", self._open[-1] if self._open else ""}


class _XliffUnits(Units):
    def __init__(self, src_lang: str, tgt_lang: str) -> None:
        super().__init__("xliff")
        self._wanted = (src_lang, tgt_lang)
        self._is_turned: bool | None = None  # None: the file is in other languages
        self._found: dict[str, None] = {}  # languages of its files
        self._is_second = False  # version 2, which has the languages in the first element
        self._is_phrase = False  # made by Phrase, formerly Memsource, which writes codes as text
        self._num_files = 0  # in the languages that are wanted
        self._open: list[tuple[str, bool]] = []  # elements; whether what is in them is to be translated
        self._tags: dict[str, str] = {}  # what codes stand for in the whole file, as Trados has it in the header
        self._codes: ChainMap[str, str] = ChainMap({}, self._tags)
        self._sides: dict[str, _Side] = {}
        self._side: _Side | None = None
        self._state: str | None = None  # of a segment
        self._rejected: set[str] = set()  # segments of a unit, which Trados tells behind their text
        self._data: list[str] | None = None  # the original of a code that is told apart from the segments
        self._data_id = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = local(tag)
        self.root = self.root or name
        parent, is_text = self._open[-1] if self._open else ("", True)
        if "translate" in attributes:
            is_text = attributes["translate"] != "no"
        if attributes.get("restype") == "x-gettext-domain-header":
            is_text = False
        self._open.append((name, is_text))
        if self._side is not None:
            self._side.start(name, attributes)
            return
        match name:
            case "xliff":
                self._is_phrase = any(key.startswith(_PHRASE) for key in attributes)
                if "srcLang" in attributes:
                    self._is_second = True
                    self._languages(attributes["srcLang"], attributes.get("trgLang", ""))
            case "file" if not self._is_second:
                self._languages(attributes.get("source-language", ""), attributes.get("target-language", ""))
                self._tags.clear()
            case "trans-unit" | "unit":
                self._codes, self._sides, self._rejected = ChainMap({}, self._tags), {}, set()
                self._state = attributes.get(_MEMOQ_STATE)
            case "segment":
                self._sides, self._state = {}, attributes.get("state")
            case "seg" if parent == "seg-defs" and attributes.get("conf") in _UNTRANSLATED:
                self._rejected.add(attributes.get("id", ""))
            case "tag" if parent == "tag-defs":
                self._data_id = attributes.get("id", "")
            case "ph" if parent == "tag":
                self._data = []
            case "data" if parent == "originalData":
                self._data, self._data_id = [], f"data {attributes.get('id')}"
            case "source" | "seg-source" | "target" if parent in ("trans-unit", "segment"):
                self._side = _Side(self._codes)
                if name != "target" or attributes.get("state", self._state) not in _UNTRANSLATED:
                    self._sides[name] = self._side

    def data(self, text: str) -> None:
        if self._side is not None:
            self._side.data(text)
        elif self._data is not None:
            self._data.append(text)

    def end(self, tag: str) -> None:
        name, is_text = self._open.pop()
        parent = self._open[-1][0] if self._open else ""
        if self._side is not None:
            if name in ("source", "seg-source", "target") and parent in ("trans-unit", "segment"):
                self._side = None
            else:
                self._side.end()
        elif self._data is not None and name in ("data", "ph"):
            codes = self._tags if name == "ph" else self._codes
            codes[self._data_id] = "".join(self._data)
            self._data = None
        elif name in ("trans-unit", "segment") and is_text and self._is_turned is not None:
            for src, tgt in self._segments():
                self.add(*((tgt, src) if self._is_turned else (src, tgt)))

    def refusal(self) -> str | None:
        if (reason := super().refusal()) is None and self._found and not self._num_files:
            reason = not_among(self._wanted, self._found)
        return reason

    def _languages(self, src: str, tgt: str) -> None:
        self._is_turned = is_turned(self._wanted, (src, tgt))
        self._num_files += self._is_turned is not None
        if len(self._found) < MAX_CODES:
            self._found |= {lang: None for lang in (src, tgt) if lang}

    def _segments(self) -> Iterator[tuple[str, str]]:
        texts = {name: {key: text.text() for key, text in side.texts.items()} for name, side in self._sides.items()}
        if self._is_phrase:
            texts = {
                name: {key: _PHRASE_CODE.sub("", text) for key, text in side.items()} for name, side in texts.items()
            }
        nothing = {"": ""}
        marked, target = texts.get("seg-source", nothing), texts.get("target", nothing)
        target = {**target, **dict.fromkeys(self._rejected, "")}
        if len(marked) > 1 and target.keys() <= marked.keys() and len(target) > 1:
            yield from ((text, target.get(key, "")) for key, text in marked.items() if key)
        else:
            yield texts.get("source", nothing)[""], target[""]
