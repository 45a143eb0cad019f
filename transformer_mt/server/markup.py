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
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Any

from lxml import etree, html

from transformer_mt.decoding.word_links import Links
from transformer_mt.server.errors import RequestError
from transformer_mt.text.scripts import UNSPACED_CHARACTER

_Element = Any  # lxml has no types

# Within a sentence, around words of it.
_INLINE = frozenset({
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "data", "del", "dfn", "em", "font", "i", "ins", "label",
    "mark", "nobr", "output", "q", "s", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u",
})  # fmt: skip
# Within a sentence, and no words of it: kept as they are, behind the word that they stand behind.
_ATOMS = frozenset({
    "audio", "canvas", "code", "embed", "iframe", "img", "input", "kbd", "math", "meter", "object", "picture",
    "progress", "samp", "svg", "var", "video", "wbr",
})  # fmt: skip
_UNTOUCHED = frozenset({
    "noembed", "noframes", "noscript", "plaintext", "pre", "script", "style", "template", "textarea", "xmp",
})  # fmt: skip
_MOST_LEVELS = 100
_MOST_PLACES = 20  # of the same characters that are looked at: with more, hardly one of them is the one
_VOID = frozenset({
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input", "keygen", "link",
    "meta", "param", "source", "track", "wbr",
})  # fmt: skip
_RAW = frozenset({"iframe", "noembed", "noframes", "plaintext", "script", "style", "xmp"})  # no entities in their text
# What libxml2 does not know: four elements that have no end tag (it is given one), and that what stands behind the end
# tags of a page is a part of it (all but the last are taken out). Not in comments, nor where there are no elements.
_NOT_IN_LXML = re.compile(
    r"<!--.*?(?:-->|\Z)|<(iframe|script|style|textarea|title|xmp)\b.*?(?:</\1\b|\Z)"
    r"""|<(?P<void>embed|source|track|wbr)\b(?:[^<>"']|"[^"]*"|'[^']*')*+>"""
    r"|(?P<ends>(?:</(?:body|html)\s*>\s*)++)",
    re.I | re.S,
)

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
        self._raw = _characters(parent.text if before is None else before.tail)
        self._inlines: list[_Inline] = []

    def add(self, element: _Element) -> None:
        """Add the parent's next child, and the text behind it."""
        self._inlines.append(self._read(element))
        self._raw += _characters(element.tail)

    def _read(self, element: _Element) -> _Inline:
        found = _Inline(element, len(self._raw), len(self._raw))
        if not _is_atom(element):
            self._raw += _characters(element.text)
            for child in element:
                found.children.append(self._read(child))
                self._raw += _characters(child.tail)
            found.end = len(self._raw)
        return found

    @property
    def text(self) -> str:
        """What is translated, in one line."""
        return _SPACE.sub(" ", self._raw).strip()

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
        translation = _characters(translation)
        # White space at either end stays, as far as no element stands before or behind it.
        num_lead = len(self._raw) - len(self._raw.lstrip())
        lead = self._raw[: min([num_lead, *(inline.start for inline in self._inlines)])]
        num_text = len(self._raw.rstrip())
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
        start = self._raw.index(source, inline.start)
        same = [
            at
            for at in islice(_places(source, found), _MOST_PLACES)
            if _is_cut(found, at) <= _is_cut(self._raw, start)
            and _is_cut(found, at + len(source)) <= _is_cut(self._raw, start + len(source))
        ]
        if len(same) == 1:  # a name, a number, a part of a word
            return begins + same[0], begins + same[0] + len(source)
        if all(map(_is_mark, found)):
            return begins, ends
        if not _is_mark(source[0]):
            begins += next(i for i, one in enumerate(found) if not _is_mark(one))
        if not _is_mark(source[-1]):
            ends -= next(i for i, one in enumerate(reversed(found)) if not _is_mark(one))
        return begins, ends


def _places(part: str, text: str) -> Iterator[int]:
    """Where a part stands in a text."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _is_cut(text: str, at: int) -> bool:
    """Whether a place is within a word, not between a word and what is none or is written in another script."""
    if not 0 < at < len(text):
        return False
    one, other = text[at - 1], text[at]
    kinds = unicodedata.category(one)[0], unicodedata.category(other)[0]
    if not set(kinds) <= set("LMN") or UNSPACED_CHARACTER.search(one + other):
        return False
    scripts = (unicodedata.name(character, "").partition(" ")[0] for character in (one, other))
    return kinds != ("L", "L") or len(set(scripts)) == 1


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
        text = _NOT_IN_LXML.sub(_for_lxml, _characters(text))
        self._is_document = bool(_DOCUMENT.match(text))
        try:
            page = text if self._is_document else f"<html><body>{text}"
            self._root = html.document_fromstring(page.encode(), _PARSER)
            if not self._is_document:
                self._root = self._root.find("body")
        except (etree.LxmlError, ValueError) as error:
            raise RequestError(400, f"Invalid request: q is not HTML that can be read ({error})") from None
        level = 0
        for event, _ in etree.iterwalk(self._root, events=("start", "end")):
            level += 1 if event == "start" else -1
            if level > _MOST_LEVELS:
                raise RequestError(400, f"Invalid request: elements lie more than {_MOST_LEVELS} deep in one another")
        found = [] if _is_kept(self._root) else _segments(self._root)
        self.segments = [segment for segment in found if segment.is_text]

    def __str__(self) -> str:
        if not self._is_document:
            return "".join(_content(self._root))
        doctype = self._root.getroottree().docinfo.doctype
        before, behind = list(self._root.itersiblings(preceding=True)), self._root.itersiblings()
        parts = chain.from_iterable(map(_written, [*reversed(before), self._root, *behind]))
        return (f"{doctype}\n" if doctype else "") + "".join(parts)


def _for_lxml(found: re.Match[str]) -> str:
    if found["ends"] and found.end() < len(found.string):
        return ""
    return f"{found[0]}</{found['void']}>" if found["void"] else found[0]


def _written(element: _Element) -> Iterator[str]:
    """An element as HTML has it. lxml's own way writes spaces in addresses anew, and takes `<meta>` out."""
    if not isinstance(element.tag, str):  # a comment
        yield etree.tostring(element, method="html", encoding="unicode", with_tail=False)
        return
    yield f"<{element.tag}"
    for name, value in element.items():
        quoted = _escaped(value).replace('"', "&quot;")
        yield f' {name}="{quoted}"'
    yield ">"
    yield from _content(element)
    if element.tag not in _VOID:
        yield f"</{element.tag}>"


def _content(element: _Element) -> Iterator[str]:
    text = element.text or ""
    yield text if element.tag in _RAW else _escaped(text)
    for child in element:
        yield from _written(child)
        yield _escaped(child.tail or "")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _characters(text: str | None) -> str:
    """A text without the control characters that a tree refuses."""
    return _NOT_IN_XML.sub("", text or "")


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
    return (element.get("translate") or "").lower() == "no" or "notranslate" in (element.get("class") or "").split()


def _is_atom(element: _Element) -> bool:
    """A thing within a sentence; a comment too."""
    return not isinstance(element.tag, str) or element.tag in _ATOMS or (_is_inline(element) and _is_kept(element))


def _is_inline(element: _Element) -> bool:
    return element.tag in _INLINE or "-" in element.tag  # somebody's own has a hyphen in its name


def _is_within_sentence(element: _Element) -> bool:
    return _is_atom(element) or (_is_inline(element) and all(map(_is_within_sentence, element)))
