"""What is wrong with single sides and pairs of a text, whatever format it came from."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.curation.common import MAX_EXAMPLES, MAX_SHOWN_CHARS, RUINOUS_SHARE, Finding, percent, share
from transformer_mt.curation.stats import PAIRS, SOURCES, TARGETS
from transformer_mt.data.cleaning import has_html
from transformer_mt.data.pairs import Chunk, NamedSource
from transformer_mt.data.readers.languages import nearest
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.system.console import shortened
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG

# Characters that UTF-8's continuation bytes become when they are read as Windows-1252 (which lacks five of them).
_TAIL = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xC0))
# First bytes of two: where Â or Ã stands for one, almost nothing else is meant. With others (É », in capitals), two
# such characters have to follow each other. Of three bytes: typographic marks (â€™), or two characters; é » is French.
_MOJIBAKE = re.compile(
    f"[ÂÃ][{_TAIL}]|(?:[Ä-ß][{_TAIL}]){{2}}|â[€‚„†ˆ][{_TAIL}]|(?:[à-ï][{_TAIL}]{{2}}){{2}}|ð[\x90Ÿ][{_TAIL}]{{2}}"
)
_MATHEMATICS = dict.fromkeys(map(ord, "πΩ∞∑∏∫∂≤≥≠±µ∆√≈"))  # which may follow a root or a negation
# As they become where UTF-8 is read in the encodings of old Macs and of DOS: √ and ¬, or ├ and ┬, before another.
_OLD_MOJIBAKE = re.compile(
    "|".join(
        f"[{bytes([0xC2, 0xC3]).decode(name)}][{re.escape(tail.decode(name).translate(_MATHEMATICS))}]"
        for tail in [bytes(range(0x80, 0xC0))]
        for name in ("mac_roman", "cp850")
    )
)
# What letters of Western Europe become, between others, where Windows-1252 is read in the encodings of Cyrillic, DOS or
# old Macs; and words of letters beyond ASCII alone, as Cyrillic and Greek become in Windows-1252.
_MISREAD = re.compile(
    "[\u0400-\u04ff\u2500-\u259fΓΘΣΦΩδεσφⁿ⌠⌡◊∆ƒ‰¸ˆˇ˘˙˚˛˜˝ÀÁÂÃÈÊËÌÍÎÏÒÓÔÕÙÚÛŒ](?<=[A-Za-z].)[a-z]|[À-ÖØ-öø-ÿ]{5}"
)
# Without a width. Who writes without spaces has them between words, and who writes to the left marks directions.
_INVISIBLE = re.compile("[\u00ad\u2060]|\u200b(?<=[A-Za-z.,].)|[\u200e\u200f](?=[A-Za-z])")
# What cleaning takes for such, but for those that are told by themselves, and line ends.
_CONTROL = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f\ud800-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff]")
# Of alphabets that stand between spaces. Not in what has other marks before it, as addresses do.
_LETTER = "[a-zß-öø-ÿ\u0100-\u024f\u0370-\u052f]"
_MAYBE_LOST = re.compile(rf"\?(?<={_LETTER}\?){_LETTER}", re.IGNORECASE)  # fast, as it begins with one character
_LOST_LETTER = re.compile(rf"(?:^|[\s\"'(„“«‘])[^\W\d_]*{_LETTER}\?{_LETTER}", re.IGNORECASE)
# Of SubRip and WebVTT, YouTube (.sbv), lyrics (.lrc) and Substation Alpha.
_SPAN = r"\d+:\d\d:\d\d\.\d+,\d+:\d\d:\d\d\.\d"
TIMES = re.compile(
    rf"^[^\S\n]*\d+:\d\d(?::\d\d)?[,.]\d+\s+-->\s|^{_SPAN}|^\[\d+:\d\d[.:]\d+\]|^Dialogue:\s*\d+,\d+:\d\d:",
    re.MULTILINE | re.IGNORECASE,
)
_PIECE = re.compile(r"\w@@(?: |$)|(?:^| )▁\w", re.MULTILINE)  # of BPE and of SentencePiece
_KEY = re.compile(r"^(?:[A-Za-z](?=\S*[._:/]\w)[\w.:/-]*\w|[A-Z\d][A-Z]{2} \d+:\d+)$", re.MULTILINE)  # or of a verse
_NUMBER = re.compile(rf"^(?!{_SPAN})[-+#.,:/ ]*+\d[-+#.,:/ \d]*+$", re.MULTILINE)
# Before text: 17. or 1:3, GEN 1:3, [1.3] or 1|3| of verses, {25}{60} of subtitles, menu.open= of catalogues.
_PREFIX = re.compile(
    r"^(?:(?:\\v )?\d[\d.:]*[.)]? |(?:\d++\|){1,3}|\d++[,;:](?!\d)|(?:[^\W\d_]++\.? ){1,4}\d+[:.,]\d+ |"
    r"[\[(]\d+[:.,]\d+[\])] ?|\{\d+\}\{\d+\}|[A-Za-z](?=[\w-]*+[._])[\w.-]*+[ \t]*+[=:])(?=.*[^\W\d_])",
    re.MULTILINE,
)
# On both sides, in files of programs: "key": {, key = text, IDS_KEY "text", <!ENTITY key "text">.
_SAME_KEY = re.compile(r"""[ \t]*+(?:<!ENTITY[ \t]++)?["']?[^\W\d][\w.-]*+["']?(?:[ \t]*+[:=]|[ \t]++["'])""")
_TRIED_FOR_KEYS = 100  # pairs of a chunk
_ARE_SAME_KEYS, _DIFFERENT_KEYS = 0.25, 0.1  # of those; who speaks stands before text, too, but the same few do
# Of IWSLT's talks.
_TALK = re.compile(r"^<(?:url|keywords|speaker|talkid|title|description|reviewer|translator|doc)\b", re.MULTILINE)
# Of JSON, Python (\xe4, \303\244), TeX, and mails (=C3=A4, +AOQ-). Each way begins with a character of its own: fast.
_ESCAPE = re.compile(
    r"""\\u[\da-fA-F]{4}|\\x[\da-fA-F]{2}|\\[0-3][0-7]{2}\\[0-3][0-7]{2}|\\["'^`~]\{?[aeiounAEIOU]|"""
    r"=[\dA-F]{2}=[\dA-F]{2}|\+A[M-P][\w/+]-"
)
_OF_ADDRESSES = re.compile(r"^(?=(?:\S*?%[\dA-F]{2}){2})(?!\S*://)\S++$", re.MULTILINE)  # Two%20words%2C; no address
# Lines that are Python's bytes or lists, or objects of JSON.
_LITERAL = re.compile(r"""^(?:b(?:'.*'|".*")|\[(?:'.*'|".*")\]|\{["'][^"']+["']: ?.*\})$""", re.MULTILINE)
_LINE_END = re.compile(r"\\[nrt](?<!\\\\.)(?![a-z])")  # in two characters, and not in C:\new
_HAS_DELIMITER = re.compile('[,;\t]|""')
_SPEECH = re.compile('["«»‹›„“”‚‘「」『』《》〈〉]|^\\s*[-–—―]')  # in the manner of any language
_QUOTED = re.compile(r'\s*"(?:[^"]|"")*"\s*')  # as a field of a CSV file
_HEADER = tuple(
    re.compile(rf"(?:{names})(?:[ _-]?(?:text|sentence|segment|string|lang|language))?", re.IGNORECASE)
    for names in ("src|source|original", "trg|tgt|target|translation")
)


class Fault(NamedTuple):
    """A kind of damage, and from which share of a source's pairs on it is told, and ruins a model."""

    words: str  # that follow "so many pairs"
    told_from: float = 0.0
    ruins_from: float = RUINOUS_SHARE
    rule: str = ""  # of `data.clean`, that leaves such pairs out
    fewest: int = 1  # that are told: fewer may be about what others have for damage


_NEVER = 2.0
_ALL = 0.9  # of the training pairs, nearly
# From which shares of pairs on.
_NO_TEXT = {
    **dict.fromkeys(("keys", "numbers", "same_keys", "literal"), 0.5),
    **dict.fromkeys(("copy", "prefixes", "same_start"), _ALL),
    **dict.fromkeys(("escape", "misread"), 0.1),
    "talks": 0.01,
}
_MAY_BE = ("copy", "prefixes", "same_start", "escape", "misread")  # what a model may be trained on nevertheless
_BEGINNINGS = ("same_keys", "keys", "literal", "times", "prefixes", "same_start")  # the nearest word first
_QUOTES = ("quoted", "one_quoted", "doubled")

FAULTS = {
    "NUL": Fault("hold a NUL character", rule="drop_control_characters"),
    "control": Fault("hold control characters, or private ones of a symbol font", rule="drop_control_characters"),
    "lost": Fault("hold U+FFFD, which stands for a character that was lost", rule="drop_control_characters"),
    "bom": Fault("hold a byte order mark that is not at the start of a file", ruins_from=_NEVER),
    "mojibake": Fault("hold text that was read in another encoding than its own (as Ã¤, √§ or ├ñ for ä, â€™ for ’)"),
    "letter": Fault(
        "hold a question mark inside of a word, where a letter was lost", told_from=RUINOUS_SHARE, fewest=5
    ),
    "misread": Fault(
        "hold words with letters or signs of another encoding in them (weiЯ or wei▀ for weiß, Ïðèâåò for Привет)",
        fewest=5,
    ),
    "escape": Fault(r"hold escapes instead of letters (\u00e4, \xe4, \303\244, =C3=A4 or %C3%A4 for ä)", fewest=5),
    "literal": Fault(
        "are written as in a program: bytes (b'…'), lists (['…', '…']) or objects ({\"key\": …}); write out the text "
        "alone, or read JSON as jsonl",
        told_from=RUINOUS_SHARE,
        fewest=5,
    ),
    "line_end": Fault(
        r"hold a line end or a tab as two characters (\n, \t), as JSON and databases write them; undo that where the "
        "text is written out, or write spaces",
        told_from=0.05,
        ruins_from=_NEVER,
        fewest=5,
    ),
    "invisible": Fault(
        "hold characters without width inside of words (soft hyphens, zero-width spaces, marks of direction), by which "
        "equal words differ; delete them",
        told_from=RUINOUS_SHARE,
        ruins_from=_NEVER,
        fewest=5,
    ),
    # Placeholders such as <file> are common in the texts of programs.
    "html": Fault(
        "hold tags of HTML, or references as &apos; (which Moses' deescape-special-chars.perl makes text)",
        told_from=0.1,
        ruins_from=0.5,
        rule="drop_html",
    ),
    "nfc": Fault("are not in Unicode's normal form NFC", ruins_from=_NEVER),
    "doubled": Fault(
        "stand in quotes with doubled quotes inside, as spreadsheets write them; read it as csv, with its delimiter"
    ),
    # What people say stands in quotes on each side; half of a text does not.
    "quoted": Fault(
        "stand in quotes, as a table has them that should be read as csv, with its delimiter", told_from=0.5
    ),
    # Spreadsheets put those into quotes that have a delimiter in them, or a quote.
    "one_quoted": Fault(
        "have one side in quotes, as a table has it that should be read as csv, with its delimiter",
        told_from=RUINOUS_SHARE,
    ),
    "times": Fault("are the times of subtitles"),
    "pieces": Fault("are cut into pieces (Wa@@ ter, or ▁Wa ter); give the text as it was before that", fewest=5),
    "tabs": Fault("hold tabs, as tables have between columns", told_from=0.5, ruins_from=0.5),
    "keys": Fault(
        "are keys, as menu.file.open, which programs find texts by, or numbers of verses; look whether it is the right "
        "file, or column",
        told_from=0.5,
        ruins_from=0.5,
    ),
    "numbers": Fault(
        "are numbers, as tables have them beside their text; look whether it is the right file, or column",
        told_from=0.5,
        ruins_from=0.5,
        fewest=5,
    ),
    "prefixes": Fault(
        "begin with a number or a key (17., GEN 1:3, menu.open=), as lists have before their text; cut it off, if it "
        "does not belong to that",
        told_from=_ALL,
        ruins_from=_NEVER,
        fewest=5,
    ),
    "same_start": Fault(
        "begin with the same word, as with a tag or a task (>>de<<, translate English to German:); a model that learns "
        "it needs it before each text: cut it off, or see data.train's tag",
        told_from=_ALL,
        ruins_from=_NEVER,
        fewest=20,
    ),
    "same_keys": Fault(
        "begin with the same key on both sides (key = …), as files of programs do; write out the texts alone, or make "
        "one file of both sides with the Translate Toolkit (ini2po, json2po, yaml2po, …)",
        told_from=0.5,
        ruins_from=0.5,
        fewest=5,
    ),
    "talks": Fault(
        "are what IWSLT's files say of their talks (<url>, <keywords>, …); leave them out: grep -v '^<', on both files"
    ),
    "endless": Fault(f"are longer than {LONGEST_LINE >> 20} MiB; one sentence a line is expected, look at line ends"),
    "long": Fault(
        "are longer than {} characters; one sentence a line is expected, look at the file's line ends (U+2028 is none)",
        rule="max_chars",
    ),
    "half": Fault("have text on one side only"),
    "blank": Fault("are blank on both sides"),
    # Of all kinds of noise the one that a model learns soonest: a tenth of the text costs most of its BLEU (Khayrallah
    # and Koehn 2018).
    "copy": Fault("are the same on both sides", told_from=0.05, ruins_from=0.1, rule="drop_identical"),
    "header": Fault(
        "are the names of columns, not text (in a table's first line: set header: true; in any other: delete it)",
        ruins_from=_NEVER,
    ),
}


@dataclass
class _Seen:
    """How many have a fault, and the places of the first ones."""

    count: int = 0
    places: list[int] = field(default_factory=list)

    def add(self, count: int, places: Sequence[int]) -> None:
        self.count += count
        self.places = [*self.places, *places][:MAX_EXAMPLES]


Seen = dict[tuple[str, str], _Seen]  # by unit (pairs, source sides or target sides) and key of the fault


def faults_of(chunk: Chunk, languages: tuple[str, str], longest: int) -> Seen:
    """Return the faults of a chunk. A side of more than ``longest`` characters is too long."""
    seen: Seen = {}

    def add(unit: str, fault: str, numbers: Iterable[int]) -> None:
        if places := [chunk.first + number for number in numbers]:
            seen.setdefault((unit, fault), _Seen()).add(len(places), places[:MAX_EXAMPLES])

    for unit, lines in zip((SOURCES, TARGETS), (chunk.src, chunk.tgt), strict=True):
        for fault, numbers in _faults_of_lines(lines, longest):
            add(unit, fault, numbers)
    by_fault: dict[str, list[int]] = {}
    for number, pair in enumerate(chunk.pairs()):
        if (of_pair := _fault_of_pair(pair, languages)) is not None:
            by_fault.setdefault(of_pair, []).append(number)
    for fault, found in by_fault.items():
        add(PAIRS, fault, found)
    add(PAIRS, "same_keys", _same_keys(chunk))
    return seen


def _same_keys(chunk: Chunk) -> list[int]:
    """Return which pairs have the same key before both sides; none where few of some pairs have, or always the same."""

    def key_of(number: int) -> str | None:
        key = _SAME_KEY.match(chunk.src[number])
        return key[0] if key and chunk.tgt[number].startswith(key[0]) else None

    tried = range(0, len(chunk.src), max(1, len(chunk.src) // _TRIED_FOR_KEYS))
    keys = [key for number in tried if (key := key_of(number))]
    if len(keys) < _ARE_SAME_KEYS * len(tried) or len({*keys}) < _DIFFERENT_KEYS * len(keys):
        return []
    return [number for number in range(len(chunk.src)) if key_of(number)]


def _faults_of_lines(lines: Sequence[str], longest: int) -> Iterator[tuple[str, list[int]]]:
    """The faults of some sides, and the numbers of those that have them.

    Most text has none: all of it is searched at once, and single lines only where something was found.
    """
    if max(map(len, lines), default=0) > longest:
        yield "long", [i for i, line in enumerate(lines) if len(line) > longest]
    if TOO_LONG in lines:
        yield "endless", [i for i, line in enumerate(lines) if line == TOO_LONG]
        lines = ["" if line == TOO_LONG else line for line in lines]
    text = "\n".join(lines)
    tests: dict[str, Callable[[str], object]] = {
        "NUL": lambda line: "\0" in line,
        "control": _CONTROL.search,
        "letter": lambda line: _MAYBE_LOST.search(line) and _LOST_LETTER.search(line),
        "escape": lambda line: _ESCAPE.search(line) or ("%" in line and _OF_ADDRESSES.search(line)),
        "literal": _LITERAL.search,
        "html": has_html,
        "tabs": lambda line: "\t" in line,
        "keys": _KEY.search,
        "numbers": _NUMBER.search,
        "prefixes": _PREFIX.search,
    }
    if "<url>" in text or "<talkid>" in text:
        tests["talks"] = _TALK.search
    if "\\" in text:
        tests["line_end"] = _LINE_END.search
    if ":" in text:
        tests["times"] = TIMES.search
    if "@@" in text or "▁" in text:
        tests["pieces"] = _PIECE.search
    if not text.isascii():
        tests |= {
            "lost": lambda line: "\ufffd" in line,
            "bom": lambda line: "\ufeff" in line,
            "misread": _MISREAD.search,
            "mojibake": lambda line: _MOJIBAKE.search(line) or _OLD_MOJIBAKE.search(line),
            "nfc": lambda line: not unicodedata.is_normalized("NFC", line),
        }
        if any(map(text.__contains__, "\u00ad\u2060\u200b\u200e\u200f")):
            tests["invisible"] = _INVISIBLE.search
    for fault, is_in in tests.items():
        if is_in(text):
            yield fault, [i for i, line in enumerate(lines) if is_in(line)]
    yield "same_start", _same_start(lines)
    if '"' in text:
        quoted = [i for i, line in enumerate(lines) if line[-1:] == '"' and _QUOTED.fullmatch(line)]
        yield "quoted", quoted
        yield "doubled", [i for i in quoted if '""' in lines[i].strip()[1:-1]]


def _same_start(lines: Sequence[str]) -> list[int]:
    """Return which sides begin with the same word, before others; none where few do."""
    words = {i: line.split(None, 1)[0] for i, line in enumerate(lines) if " " in line.strip()}
    (word, count), *_ = Counter(words.values()).most_common(1) or [("", 0)]
    is_said_of_all = count >= max(FAULTS["same_start"].fewest, _ALL * len(lines))
    return [i for i, one in words.items() if one == word] if is_said_of_all else []


def _fault_of_pair(pair: SentencePair, languages: tuple[str, str]) -> str | None:
    src, tgt = pair
    if not src or not tgt or src.isspace() or tgt.isspace():
        return "half" if (src and not src.isspace()) or (tgt and not tgt.isspace()) else "blank"
    if src == tgt or src.strip() == tgt.strip():
        is_copy = src != TOO_LONG and languages[0] != languages[1] and any(map(str.isalpha, src))
        return "copy" if is_copy else None
    if '"' in src or '"' in tgt:
        for side, other in (pair, pair[::-1]):
            if _QUOTED.fullmatch(side) and _HAS_DELIMITER.search(side.strip()[1:-1]) and not _SPEECH.search(other):
                return "one_quoted"
    if len(src) < 30 and len(tgt) < 30 and is_header(pair, languages):
        return "header"
    return None


def is_header(pair: SentencePair, languages: tuple[str, str]) -> bool:
    """Return whether a pair is what tables have in their first line: two language codes, or "source" and "target"."""
    names = tuple(side.strip() for side in pair)
    if len(names[0]) < 9 and all(nearest(lang, [name]) for lang, name in zip(languages, names, strict=True)):
        return True
    return all(expected.fullmatch(name) for expected, name in zip(_HEADER, names, strict=True))


def no_text(pairs: Sequence[SentencePair], languages: tuple[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield why most of some pairs, or of their sides, is nothing to train on, in words, and whether that is certain.

    Copies, and numbers on both sides, are what a model may be tried on; what all begin with may belong to the text, and
    much of damaged text can be learned from.
    """
    src, tgt = ([pair[side] for pair in pairs] for side in (0, 1))
    found = {
        (unit, name): seen
        for (unit, name), seen in faults_of(Chunk(0, 0, src, tgt), languages, sys.maxsize).items()
        if name in _NO_TEXT and seen.count >= _NO_TEXT[name] * len(pairs)
    }
    are_numbers = {(SOURCES, "numbers"), (TARGETS, "numbers")} <= found.keys()
    names = {name for _, name in found}
    for (unit, name), seen in found.items():
        if _is_said_by(name, names):
            continue
        example = repr(shortened(pairs[seen.places[0]][unit == TARGETS], MAX_SHOWN_CHARS))
        words = f"{percent(seen.count, len(pairs))} of the {unit} {FAULTS[name].words}: {example}"
        yield words, not (name in _MAY_BE or (name == "numbers" and are_numbers))


class TextFaults:
    """The faults of some sources."""

    def __init__(self) -> None:
        self._seen: dict[int, Seen] = {}

    def add(self, source: int, seen: Seen) -> None:
        of_source = self._seen.setdefault(source, {})
        for key, one in seen.items():
            of_source.setdefault(key, _Seen()).add(one.count, one.places)

    def findings(
        self, sources: Sequence[NamedSource], counts: Sequence[int], longest: int, rules: CleanConfig | None
    ) -> Iterator[Finding]:
        """Yield one for each source, side and fault.

        Args:
            rules: by which training text is cleaned; None for held-out text, which is not.
        """
        for number, named in enumerate(sources):
            total, seen = counts[number], self._seen.get(number, {})
            told = {
                (unit, name): one
                for (unit, name), one in seen.items()
                if one.count >= max(FAULTS[name].fewest, FAULTS[name].told_from * total)
            }
            quotes = [key for key in told if key[1] in _QUOTES]
            in_quotes = max(quotes, key=lambda key: (told[key].count, -_QUOTES.index(key[1])), default=None)
            for (unit, name), one in told.items():
                if name in _QUOTES and (unit, name) != in_quotes:  # one table in quotes is told once
                    continue
                if _is_said_by(name, {other for _, other in told}) or _is_told_otherwise(
                    name, is_all=one.count == total, is_held_out=rules is None
                ):
                    continue
                fault = FAULTS[name]
                ruins, what_then = one.count >= fault.ruins_from * total, ""
                if rules is None:
                    ruins |= name == "endless"  # validation refuses it
                elif name in ("half", "endless") or _leaves_out(rules, fault.rule, longest):
                    ruins = name != "half" and one.count >= _ALL * total  # no text is left
                    what_then = "; cleaning leaves them out"
                elif fault.rule:
                    what_then = f"; data.clean.{fault.rule} leaves them out"
                others = [key for key in quotes if key[1] == name and key[0] != unit]
                also = "".join(f" (and {told[other].count:,} {other[0]})" for other in others)
                what = (
                    f"{share(one.count, total)} of {total:,} {unit}{also} {fault.words.replace('{}', f'{longest:,}')}"
                )
                where = _examples(one, sum(counts[:number]))
                yield Finding(f"{named.label}: {what}: {where}{what_then} ({named.source})", ruins)


def _is_said_by(name: str, others: set[str]) -> bool:
    """Return whether one of the other faults of a source says of its lines what this one would, more nearly."""
    return name in ("prefixes", "same_start") and not others.isdisjoint(_BEGINNINGS[: _BEGINNINGS.index(name)])


def _is_told_otherwise(name: str, *, is_all: bool, is_held_out: bool) -> bool:
    """Return whether another finding has what this one would say, or nobody needs to know it."""
    if name == "blank":
        return is_all or not is_held_out  # a source without text; in training text, blank lines part documents
    return name == "half" and is_all  # a source without text


def _leaves_out(rules: CleanConfig, rule: str, longest: int) -> bool:
    if rule == "max_chars":
        return rules.max_chars is not None and rules.max_chars <= longest
    return bool(rule and getattr(rules, rule))


def _examples(seen: _Seen, start: int) -> str:
    numbers = ", ".join(f"{place - start + 1:,}" for place in seen.places)
    more = ", …" if seen.count > len(seen.places) else ""
    return f"{'pair' if seen.count == 1 else 'pairs'} {numbers}{more}"
