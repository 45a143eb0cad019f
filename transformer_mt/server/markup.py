"""HTML as sentences to translate, and back: a tree by lxml, whose elements and attributes stay.

What stands between two blocks (paragraphs, cells, list items, line breaks) is one text for the model, without the
inline elements in it (links, emphasis). In the translation each of these encloses the words that belong to those that
it enclosed, by the links of word alignment; where there are none, those in the same part of the text. An element
begins and ends with a word.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lxml import etree, html

from transformer_mt.decoding.word_links import Links
from transformer_mt.server.errors import RequestError

_Element = Any  # lxml has no types

# Within a sentence, around words of it.
_INLINE = frozenset({
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "del", "dfn", "em", "font", "i", "ins", "label", "mark",
    "q", "s", "small", "span", "strike", "strong", "sub", "sup", "tt", "u",
})  # fmt: skip
# Within a sentence, and no words of it: kept as they are, behind the word that they stand behind.
_ATOMS = frozenset({
    "audio", "canvas", "code", "embed", "iframe", "img", "input", "kbd", "math", "object", "samp", "svg", "var",
    "video", "wbr",
})  # fmt: skip
_UNTOUCHED = frozenset({"noscript", "pre", "script", "style", "template", "textarea"})
_MOST_LEVELS = 100

_SPACE = re.compile("[ \t\r\n\f]+")  # not the no-break space
_WORD = re.compile(r"\S+")  # as the links count them
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
# Behind a byte order mark, comments and an XML declaration, too.
_DOCUMENT = re.compile(r"(?:\s|\ufeff|(?><!--.*?-->)|<\?[^>]*+>)*+<(!doctype|html|head|body)\b", re.I | re.S)
_PARSER = html.HTMLParser(encoding="utf-8", default_doctype=False)


@dataclass
class _Inline:
    """An element within a sentence, and the characters of the sentence that it encloses."""

    element: _Element
    start: int
    end: int
    children: list[_Inline] = field(default_factory=list)
    first: int = 0  # of the words of the translation that it encloses
    stop: int = 0


class Segment:
    """What stands between two blocks: text with inline elements in it."""

    def __init__(self, parent: _Element, before: _Element | None) -> None:
        """``before``: the child of the parent whose tail it begins with; None: the parent's text."""
        self._parent, self._before = parent, before
        self._raw = (parent.text if before is None else before.tail) or ""
        self._inlines: list[_Inline] = []

    def add(self, element: _Element) -> None:
        """Add the parent's next child, and the text behind it."""
        self._inlines.append(self._read(element))
        self._raw += element.tail or ""

    def _read(self, element: _Element) -> _Inline:
        found = _Inline(element, len(self._raw), len(self._raw))
        if not _is_atom(element):
            self._raw += element.text or ""
            for child in element:
                found.children.append(self._read(child))
                self._raw += child.tail or ""
            found.end = len(self._raw)
        return found

    @property
    def text(self) -> str:
        """What is translated, in one line."""
        return _SPACE.sub(" ", self._raw).strip(" ")

    @property
    def is_text(self) -> bool:
        return any(map(str.isalnum, self._raw))

    @property
    def has_inlines(self) -> bool:
        return bool(self._inlines)

    def replace(self, translation: str, links: Links | None) -> None:
        """Put the translation into the tree.

        Args:
            links: of words of `text` and of the translation; None: they are not known.
        """
        translation = _NOT_IN_XML.sub("", translation)
        # White space at either end stays, as far as no element stands before or behind it.
        num_lead = len(self._raw) - len(self._raw.lstrip(" \t\r\n\f"))
        lead = self._raw[: min([num_lead, *(inline.start for inline in self._inlines)])]
        num_text = len(self._raw.rstrip(" \t\r\n\f"))
        trail = self._raw[max([num_text, *(inline.end for inline in self._inlines)]) :]
        target = [word.span() for word in _WORD.finditer(translation)]
        _place(
            self._inlines, _Map([word.span() for word in _WORD.finditer(self._raw)], len(target), links), 0, len(target)
        )
        for inline in self._inlines:
            self._parent.remove(inline.element)
        index = 0 if self._before is None else self._parent.index(self._before) + 1
        text, children = _Writer(self._raw, translation, target).write(self._inlines, 0, len(translation))
        if self._before is None:
            self._parent.text = lead + text
        else:
            self._before.tail = lead + text
        self._parent[index:index] = children
        if children:
            children[-1].tail += trail
        elif self._before is None:
            self._parent.text += trail
        else:
            self._before.tail += trail


class _Map:
    """Which words of a translation belong to a stretch of the source."""

    def __init__(self, words: list[tuple[int, int]], num_target: int, links: Links | None) -> None:
        self._begins, self._ends = [begins for begins, _ in words], [ends for _, ends in words]
        self._num_target = num_target
        self._linked: dict[int, list[int]] = {}
        for i, j in links or ():
            self._linked.setdefault(i, []).append(min(j, num_target - 1))

    def range_of(self, start: int, end: int) -> tuple[int, int]:
        """The first of the target's words and the one behind the last, for characters of the source."""
        own = range(bisect_right(self._ends, start), bisect_left(self._begins, end))
        if start == end or not own:  # behind the word that it stands behind, or in
            place = self.range_of(self._begins[own.stop - 1], self._ends[own.stop - 1])[1] if own.stop else 0
            return place, place
        if len(own) == len(self._begins):
            return 0, self._num_target
        linked = [j for i in own for j in self._linked.get(i, ())]
        if linked:
            return min(linked), max(linked) + 1
        first = own.start * self._num_target // len(self._begins)
        return first, max(first + 1, own.stop * self._num_target // len(self._begins))


def _place(inlines: list[_Inline], found: _Map, first: int, stop: int) -> None:
    """Give elements that stand side by side their words, between two bounds, and then their children; no word is given
    to two neighbours."""
    for inline in inlines:
        inline.first, inline.stop = (min(max(at, first), stop) for at in found.range_of(inline.start, inline.end))
    inlines.sort(key=lambda inline: inline.first)
    for one, other in pairwise(inlines):
        if other.first < other.stop:  # both keep a word, where there are two
            one.stop = min(one.stop, max(other.first, one.first + 1))
        other.first = max(other.first, one.stop)
        other.stop = max(other.first, other.stop)
    for inline in inlines:
        _place(inline.children, found, inline.first, inline.stop)


class _Writer:
    """Puts elements around the words of a translation."""

    def __init__(self, raw: str, text: str, words: list[tuple[int, int]]) -> None:
        self._raw, self._text, self._words = raw, text, words

    def write(self, inlines: list[_Inline], at: int, end: int, raw_at: int = 0) -> tuple[str, list[_Element]]:
        """Return the text before the first of some elements, and the elements, filled, with the text behind each.

        Args:
            at, end: characters of the translation, that they share.
            raw_at: where in the source their parent begins.
        """
        texts = [""]
        for inline in inlines:
            begins, ends = (min(max(place, at), end) for place in self._span(inline))
            texts[-1] += self._text[at:begins]
            texts.append("")
            at = ends
            if begins == ends:  # an atom keeps the white space on either side of it, and adds none
                if inline.start > raw_at and self._raw[inline.start - 1].isspace():
                    texts[-2] += " "
                    at = end - len(self._text[at:end].lstrip())
                if self._raw[inline.end : inline.end + 1].isspace() and not self._text[at : at + 1].isspace():
                    texts[-1] = " "
            if not _is_atom(inline.element):
                own, children = self.write(inline.children, begins, ends, inline.start)
                for child in list(inline.element):
                    inline.element.remove(child)
                inline.element.text = own
                inline.element[:] = children
        texts[-1] += self._text[at:end]
        for inline, tail in zip(inlines, texts[1:], strict=True):
            inline.element.tail = tail
        return texts[0], [inline.element for inline in inlines]

    def _span(self, inline: _Inline) -> tuple[int, int]:
        """The characters of its words; without punctuation around them that the element did not have around its own."""
        if inline.first == inline.stop:
            place = self._words[inline.first - 1][1] if inline.first else 0
            return place, place
        begins, ends = self._words[inline.first][0], self._words[inline.stop - 1][1]
        source, found = self._raw[inline.start : inline.end].strip(), self._text[begins:ends]
        if found.count(source) == 1:  # a name, a number, a part of a word
            return begins + found.index(source), begins + found.index(source) + len(source)
        if all(map(_is_mark, found)):
            return begins, ends
        if not _is_mark(source[0]):
            begins += next(i for i, one in enumerate(found) if not _is_mark(one))
        if not _is_mark(source[-1]):
            ends -= next(i for i, one in enumerate(reversed(found)) if not _is_mark(one))
        return begins, ends


def _is_mark(character: str) -> bool:
    """Whether it is punctuation or a symbol."""
    return unicodedata.category(character)[0] in "PS"


class Page:
    """A text with markup: a document, or a part of one."""

    def __init__(self, text: str) -> None:
        """
        Raises:
            RequestError: it cannot be read, or its elements lie too deep in one another.
        """
        text = _NOT_IN_XML.sub("", text)
        self._is_document = bool(_DOCUMENT.match(text))
        try:
            if self._is_document:
                self._root = html.document_fromstring(text.encode(), _PARSER)
            else:  # lxml would add end tags, which what is not closed in the text would swallow
                self._root = html.fragment_fromstring(f"<html><body>{text}", create_parent="div")
        except (etree.LxmlError, ValueError) as error:
            raise RequestError(400, f"Invalid request: q is not HTML that can be read ({error})") from None
        level = 0
        for event, _ in etree.iterwalk(self._root, events=("start", "end")):
            level += 1 if event == "start" else -1
            if level > _MOST_LEVELS:
                raise RequestError(400, f"Invalid request: elements lie more than {_MOST_LEVELS} deep in one another")
        self.segments = [segment for segment in _segments(self._root) if segment.is_text]

    def __str__(self) -> str:
        if self._is_document:
            return str(html.tostring(self._root.getroottree(), encoding="unicode"))
        # Serialised with its parent, which is taken off again: it has no attributes.
        return str(html.tostring(self._root, encoding="unicode")).removeprefix("<div>").removesuffix("</div>")


def _segments(block: _Element) -> list[Segment]:
    found = [Segment(block, None)]
    for child in block:
        if _is_within_sentence(child):
            found[-1].add(child)
            continue
        if isinstance(child.tag, str) and child.tag not in _UNTOUCHED and not _is_kept(child):
            found.extend(_segments(child))
        found.append(Segment(block, child))
    return found


def _is_kept(element: _Element) -> bool:
    """Whether its author wants it left alone."""
    return element.get("translate") == "no" or "notranslate" in (element.get("class") or "").split()


def _is_atom(element: _Element) -> bool:
    """A thing within a sentence; a comment too."""
    return not isinstance(element.tag, str) or element.tag in _ATOMS or (element.tag in _INLINE and _is_kept(element))


def _is_within_sentence(element: _Element) -> bool:
    return _is_atom(element) or (element.tag in _INLINE and all(map(_is_within_sentence, element)))
