"""Translation memories: TMX."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from transformer_mt.data.readers.inline_codes import SegmentText
from transformer_mt.data.readers.languages import MAX_CODES, distance, not_among
from transformer_mt.data.readers.xml_units import XML_LANG, Units, local, read_units
from transformer_mt.errors import InputError

# OmegaT's own memories have the tags of a document as text: <f0>, </f0>, <br1/>.
_OMEGAT_TAG = re.compile(r"(</?[A-Za-z]{1,40}\d{1,9}/?>)")
_LONGEST_TAG = 100
_MOST_PAIRS = 10_000  # of a unit


def read_tmx(path: str, src_lang: str, tgt_lang: str) -> Iterator[tuple[str, str]]:
    """Yield the units of a TMX file. One without a text in both languages is a pair with an empty side.

    Of a unit with several variants in a language, each is paired with each of the other's.

    Raises:
        InputError: it cannot be read, is damaged or no TMX, lacks a language, or a unit makes more than 10,000 pairs.
    """
    return read_units(path, _TmxUnits(path, src_lang, tgt_lang))


class _TmxUnits(Units):
    def __init__(self, path: str, src_lang: str, tgt_lang: str) -> None:
        super().__init__("tmx")
        self._path = path
        self._langs = (src_lang, tgt_lang)
        self._variants: list[tuple[str, str]] = []  # language and text of each in the unit
        self._codes: dict[str, str] = {}
        self._lang = ""
        self._segment: SegmentText | None = None
        self._has_tags = False  # in the text of its segments
        self._text = ""  # of a segment, which may end within a tag
        self._missing = {src_lang, tgt_lang}  # languages that no unit has had so far
        self._found: dict[str, None] = {}

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = local(tag)
        self.root = self.root or name
        if self._segment is not None:
            if self._text:
                self._take_text(self._segment)
            self._segment.start(name, attributes)
        elif name == "header":
            self._has_tags = attributes.get("o-tmf", "").startswith("OmegaT")
        elif name == "tu":
            self._variants, self._codes = [], {}
        elif name == "tuv":
            self._lang = attributes.get(XML_LANG) or attributes.get("lang", "")
        elif name == "seg":
            self._segment = SegmentText(self._codes)

    def data(self, text: str) -> None:
        if self._segment is None:
            return
        if not self._has_tags:
            self._segment.data(text)
            return
        self._text += text
        if self._text.rfind("<") <= self._text.rfind(">") or len(self._text) > _LONGEST_TAG:
            self._take_text(self._segment)

    def end(self, tag: str) -> None:
        name = local(tag)
        if self._segment is not None and self._text:
            self._take_text(self._segment)
        if self._segment is not None and name != "seg":
            self._segment.end()
        elif self._segment is not None:
            self._variants.append((self._lang, self._segment.text()))
            if self._missing and len(self._found) < MAX_CODES:
                self._found[self._lang] = None
                self._missing -= {lang for lang in self._missing if distance(lang, self._lang) is not None}
            self._segment = None
        elif name == "tu":
            src, tgt = self._langs
            ones, others = self._texts(src, tgt), self._texts(tgt, src)
            if len(ones) * len(others) > _MOST_PAIRS:
                raise InputError(
                    f"{self._path}: the unit behind {self.num_found:,} pairs has {len(ones):,} texts in {src!r} and "
                    f"{len(others):,} in {tgt!r}, as if it were several, and each would be paired with each; cut it"
                )
            for pair in itertools.product(ones, others):
                self.add(*pair)

    def refusal(self) -> str | None:
        if (reason := super().refusal()) is None and self._missing and self._found:
            reason = not_among([lang for lang in self._langs if lang in self._missing], self._found)
        return reason

    def _take_text(self, segment: SegmentText) -> None:
        """Give a segment the text that has come, with tags in it as the codes that they stand for."""
        text, self._text = self._text, ""
        for i, part in enumerate(_OMEGAT_TAG.split(text)):
            if i % 2:
                segment.start("ph" if part.endswith("/>") else "bpt", {})
            segment.data(part)
            if i % 2:
                segment.end()

    def _texts(self, wanted: str, other: str) -> list[str]:
        """Return what the unit says in the nearest language to the one that is wanted; an empty text for nothing."""
        texts: dict[int, list[str]] = {}
        for lang, text in self._variants:
            far, from_other = distance(wanted, lang), distance(other, lang)
            if far is not None and (from_other is None or far <= from_other):
                texts.setdefault(far, []).append(text)
        for far in sorted(texts):
            if some := [text for text in texts[far] if text.strip()]:
                return list(dict.fromkeys(some))
        return next(iter(texts.values()), [""])[:1]
