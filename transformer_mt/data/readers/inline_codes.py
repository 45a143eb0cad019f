"""The text of a segment among inline codes: formatting, placeholders and line breaks of the document it is from.

TMX and XLIFF have the same few elements for them. A code that shows a placeholder leaves that, formatting nothing, any
other a space where it stood between two words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, MutableMapping
from unicodedata import category

from transformer_mt.system.lines import LONGEST_LINE

# Codes by themselves, and those that are one end of a pair, where a word may go on: un<bpt/>believ<ept/>able. All other
# elements (hi, g, pc, mrk, …) have text inside.
_SINGLE, _ENDS = {"ph", "ut", "x"}, {"bpt", "ept", "it", "bx", "ex", "sc", "ec"}
_SHOWN_BY = ("disp", "equiv-text")  # attributes that tell what a code stands for

_PLACEHOLDER = re.compile(
    r"%[^\s<>]+|[$#%@]?\{(?=[{}\s]*+[^\\<>{}\s])[^\\<>]*\}"
    r"|\$\w+\$?|@[\w.]+|:[a-z_]\w*|&(?!t\w;)\w+;"  # &tA; is Wordfast's
    r"|https?://\S+|[^\s@<>]+@[\w-]+\.[\w.-]+"
)
_TAG = re.compile(r"</?\s*([\w:.-]*?[A-Za-z])\d*(?=[\s/>])")  # OmegaT numbers its tags: <f0>, <br1/>
_BREAKS = {
    *("br", "p", "div", "li", "ul", "ol", "dd", "dt", "td", "th", "tr", "table", "h", "hr", "tab", "line", "par"),
    *("lb", "pb", "option", "blockquote", "w:br", "w:cr", "w:tab", "text:s", "text:tab", "text:line-break"),
}
_FORMATS = {
    *(
        "a",
        "b",
        "i",
        "u",
        "s",
        "em",
        "strong",
        "span",
        "font",
        "sub",
        "sup",
        "code",
        "kbd",
        "var",
        "small",
        "big",
        "tt",
    ),
    *("mark", "del", "ins", "abbr", "cite", "cf", "wbr", "f", "bold", "italic", "underlined", "link", "fmt"),
}
_WRITTEN_BREAK = re.compile(r"(?:\\[nrt])+|.*\\(?:tab|line|par|cell|page)\b.*", re.DOTALL)  # in programs, in RTF
_RTF_GROUP = re.compile(r"\}|\{\\.*", re.DOTALL)  # formatting begins or ends
# The text from here up to the end of this group, "<b>" say, is a code, by its style.
_TRADOS_CODE = re.compile(r"[^{]*\{\\cs6(?!\d)[^}]*")
_MEMOQ = re.compile(r'<mq:([\w-]++).*?\bval="(.*?)"', re.DOTALL)


class SegmentText:
    """Hears of what is inside of a segment from a parser, and keeps its text; of a very long one only the start."""

    def __init__(self, contents: MutableMapping[str, str]) -> None:
        """``contents``: what codes stand for by their ids, also those of the unit's other segments; new ones go in."""
        self._contents = contents
        self._parts: list[str | None] = []  # None is a code that may have stood between two words
        self._length = 0
        self._open: list[tuple[str, Mapping[str, str]]] = []
        self._code: list[str] | None = None  # the content of a code that is open
        self._group: list[str] | None = None  # of Trados, which is one
        self._num_codes = self._num_subs = 0  # that are open

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._open.append((name, attributes))
        if name in _SINGLE or name in _ENDS:
            self._num_codes += 1
            if self._num_codes == 1:
                self._code = []
        elif _is_apart(name, attributes):
            self._num_subs += 1
        else:
            self._leave("", attributes, is_end=True)

    def data(self, text: str) -> None:
        if self._num_subs or self._length > LONGEST_LINE:  # what is longer is refused in any case
            return
        self._length += len(text)
        if self._code is not None:
            self._code.append(text)
        else:
            (self._parts if self._group is None else self._group).append(text)

    def end(self) -> None:
        name, attributes = self._open.pop()
        if name in _SINGLE or name in _ENDS:
            self._num_codes -= 1
            if self._num_codes == 0 and self._code is not None:
                content, self._code = "".join(self._code), None
                begins_group = name == "ut" and _TRADOS_CODE.fullmatch(content)
                if self._group is not None and content.lstrip().startswith("}"):
                    content, self._group = "".join(self._group), None
                if begins_group:
                    self._group = []
                self._leave(self._content_of(name, content, attributes), attributes, name in _ENDS)
        elif _is_apart(name, attributes):
            self._num_subs -= 1
        else:
            self._leave("", attributes, is_end=True)

    def text(self) -> str:
        """Return the text, without codes."""
        if self._group is not None:  # without an end, so it was none
            self._parts += self._group
            self._group = None
        if None not in self._parts:
            return "".join(self._parts)  # type: ignore[arg-type]
        found: list[str] = []
        is_apart = False
        for part in self._parts:
            if part is None:
                is_apart = True
            elif part:
                if is_apart and found and _between_words(found[-1][-1], part[0]):
                    found.append(" ")
                found.append(part)
                is_apart = False
        return "".join(found)

    def _content_of(self, name: str, content: str, attributes: Mapping[str, str]) -> str:
        shown = [content, self._contents.get(f"data {attributes.get('dataRef')}"), *map(attributes.get, _SHOWN_BY)]
        known = next((text for text in shown if text), "")
        key = attributes.get("id") or attributes.get("x")
        if name in _SINGLE and key:  # programs may leave it out in the target
            known = known or self._contents.get(key, "")
            self._contents[key] = known
        return known or attributes.get("equiv", "")

    def _leave(self, content: str, attributes: Mapping[str, str], is_end: bool) -> None:
        if self._num_subs or self._code is not None:
            return
        kind = attributes.get("ctype") or attributes.get("subType") or attributes.get("type") or ""
        self._parts.append(_left(content, re.sub(r"^(x-|html-|xlf:)*", "", kind), is_end))


def _is_apart(name: str, attributes: Mapping[str, str]) -> bool:
    """Whether what is inside is no part of the text: a footnote's own, or what has been deleted in Trados."""
    return name == "sub" or (name == "mrk" and attributes.get("mtype") == "x-sdl-deleted")


def _left(content: str, kind: str, is_end: bool) -> str | None:
    """Return the text that a code leaves; None is a space, where there is none around it."""
    if memoq := _MEMOQ.match(content):
        content = html.unescape(memoq[2])
        if memoq[1] == "ch" and not content.isspace():
            return content  # a character for which there is no key
    stripped = html.unescape(content).strip()
    if stripped != content.strip() and re.fullmatch(r"&#?\w+;", content.strip()) and stripped:
        return stripped  # one character, or a few
    if (content and not stripped) or _WRITTEN_BREAK.fullmatch(stripped):
        return None if kind != "fmt" else ""
    if _PLACEHOLDER.fullmatch(stripped):
        return stripped
    if _RTF_GROUP.fullmatch(stripped):
        return ""
    name = tag[1].lower() if (tag := _TAG.match(stripped)) else kind
    if name in _FORMATS:
        return ""
    return "" if is_end and name not in _BREAKS else None


def _between_words(before: str, after: str) -> bool:
    opening = {"Ps", "Pi"}
    is_word = after.isalnum() or after in "%¿¡" or category(after) in {*opening, "Sc"}
    return is_word and not before.isspace() and category(before) not in opening
