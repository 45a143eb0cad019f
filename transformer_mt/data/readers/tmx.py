"""Translation memories: TMX."""

from __future__ import annotations

from collections.abc import Iterator

from transformer_mt.data.readers.inline_codes import SegmentText
from transformer_mt.data.readers.xml_units import XML_LANG, Units, local, read_units


def read_tmx(path: str, src_lang: str, tgt_lang: str) -> Iterator[tuple[str, str]]:
    """Yield the units of a TMX file. One without a text in both languages is a pair with an empty side.

    Of a unit with several variants in a language, each is paired with each of the other's.
    """
    return read_units(path, _TmxUnits(src_lang, tgt_lang))


class _TmxUnits(Units):
    def __init__(self, src_lang: str, tgt_lang: str) -> None:
        super().__init__()
        self._langs = (src_lang, tgt_lang)
        self._variants: list[tuple[str, str]] = []  # language and text of each in the unit
        self._codes: dict[str, str] = {}
        self._lang = ""
        self._segment: SegmentText | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = local(tag)
        if self._segment is not None:
            self._segment.start(name, attributes)
        elif name == "tu":
            self._variants, self._codes = [], {}
        elif name == "tuv":
            self._lang = attributes.get(XML_LANG) or attributes.get("lang", "")
        elif name == "seg":
            self._segment = SegmentText(self._codes)

    def data(self, text: str) -> None:
        if self._segment is not None:
            self._segment.data(text)

    def end(self, tag: str) -> None:
        name = local(tag)
        if self._segment is not None and name != "seg":
            self._segment.end()
        elif self._segment is not None:
            self._variants.append((self._lang, self._segment.text()))
            self._segment = None
        elif name == "tu":
            src, tgt = (_texts_in(self._variants, lang) for lang in self._langs)
            for one in src:
                for other in tgt:
                    self.add(one, other)


def _normalized(lang: str) -> str:
    return lang.lower().replace("_", "-")


def _texts_in(variants: list[tuple[str, str]], lang: str) -> list[str]:
    """Return what a unit says in a language, or else in varieties of it: en-US for en; an empty text for nothing."""
    wanted = _normalized(lang)
    own = [(code, text) for code, text in variants if f"{_normalized(code)}-".startswith(f"{wanted}-")]
    exact = [(code, text) for code, text in own if _normalized(code) == wanted and text.strip()]
    texts = [text for _, text in exact or own]
    return list(dict.fromkeys(text for text in texts if text.strip())) or texts[:1] or [""]
