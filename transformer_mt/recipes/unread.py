"""Files that are not read, by the ends of their names and by how they begin: what they are, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

from transformer_mt.curation.text_faults import TIMES
from transformer_mt.errors import InputError
from transformer_mt.system.compression import COMPRESSED
from transformer_mt.system.lines import first_of, read_parts

_AS_PO = "make one file of both sides: {} -t SOURCE TARGET both.po (Translate Toolkit)"
_SUBTITLES = f"{_AS_PO.format('sub2po')}; it pairs by equal times, of others take OPUS' pairs or an aligner's"
_AS_TEXT = "write its sentences into a text file, one a line"
_SEGMENTS = (
    "with a sentence in each <seg>; write these out, one a line; those of WMT: sacrebleu -t wmt13 -l en-de --echo src"
)
_QT = "a catalogue of Qt; convert it: lconvert -of po -o both.po FILE"
_PHP = f"keys and texts of PHP; {_AS_PO.format('php2po')}"
_WORDFAST = "a document of Wordfast; export TMX or XLIFF from it"
_JSON = "JSON; name it .jsonl, and no second file, where its rows have both sides; else write out the text, one a line"
_CATALOGUE = "a catalogue; name it .po, and no second file; a .pot has no translations yet: name one of its .po files"

# By the ends of names. None of them may be a language's letters: train.ts is Tsonga, train.arb Arabic.
_SUFFIXES = {
    **dict.fromkeys((".sgm", ".sgml"), f"SGML, {_SEGMENTS}"),
    **dict.fromkeys((".html", ".htm"), f"HTML; {_AS_TEXT}"),
    **dict.fromkeys(
        (".yml", ".yaml"),
        f"YAML, with a key before each text; {_AS_PO.format('yaml2po')}; Rails': yaml2po --personality=ruby",
    ),
    ".srt": f"subtitles, with times; {_SUBTITLES}",
    ".vtt": f"subtitles, with times; save them as .srt, and {_SUBTITLES}",
    ".strings": (
        f"keys and texts of Apple's; {_AS_PO.format('prop2po --personality=strings --encoding=utf-8')}; of UTF-16: "
        "without --encoding"
    ),
    ".properties": (
        f"keys and texts of Java's; {_AS_PO.format('prop2po --encoding=utf-8')}; of Latin-1: without --encoding"
    ),
    ".resx": f"keys and texts of .NET's; {_AS_PO.format('resx2po')}",
    ".php": _PHP,
    ".ftl": f"keys and texts of Fluent; {_AS_PO.format('fluent2po')}",
    ".xcstrings": "keys and texts of Xcode; export XLIFF from it (Product, Export Localizations)",
    ".txml": _WORDFAST,
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet; save it as CSV (UTF-8), and name that"),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf"), f"a document; {_AS_TEXT}"),
}

# By the first element, of XML under any name.
_ROOTS = {
    **dict.fromkeys(("srcset", "refset", "tstset", "mteval", "doc", "hl", "seg", "dataset"), f"XML, {_SEGMENTS}"),
    **dict.fromkeys(("html", "head", "body"), _SUFFIXES[".html"]),
    "resources": f"keys and texts of Android's; {_AS_PO.format('android2po')}",
    "ts": _QT,
    "txml": _WORDFAST,
    "cesalign": "links between sentences without their text; take the corpus as Moses or TMX from OPUS",
    "tmx": "a translation memory; name it .tmx, and name no second file",
    "xliff": "XLIFF; name it .xlf, and name no second file",
}
_OTHER_XML = f"XML; {_AS_TEXT}"
_FIRST_ELEMENT = re.compile(r"(?:\s|(?><\?.*?\?>)|(?><!--.*?-->)|(?><!doctype.*?>))*+<([a-z]+)\b", re.DOTALL)
_PICTURES = re.compile(r"\{\d+\}\{\d+\}")  # their numbers, in subtitles of MicroDVD; in texts of programs, {0}{1}
_MOST_LINES, _MOST_CHARACTERS = 50, 1 << 16  # that are looked at


def refuse_unread(path: str) -> None:
    """Refuse a text file or table that is something else.

    Raises:
        InputError: a folder, a format with markup or keys around its sentences; a file that cannot be read.
    """
    if Path(path).is_dir() and not any(Path(path).iterdir()):
        raise InputError(f"{path}: is an empty folder; name files")
    if Path(path).is_dir():
        data_set = f", or set hub: {path} and split: train in a configuration" if _is_data_set(Path(path)) else ""
        raise InputError(f"{path}: is a folder; name files{_example(path)}{data_set}")
    suffixes = [suffix for suffix in Path(path.lower()).suffixes if suffix not in COMPRESSED]
    what = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if what := what or _by_beginning(path):
        raise InputError(f"{path}: {what}")


def _by_beginning(path: str) -> str | None:
    beginning = first_of((part.text for part in read_parts(path)), _MOST_LINES, _MOST_CHARACTERS)
    lines = [line for text in beginning if (line := text.strip().lower())]
    if lines and (anki := re.fullmatch(r"#separator:(\S+)", lines[0])):
        end = ".tsv" if anki[1] == "tab" else ".csv"
        return f"an export of Anki; remove its first lines, which begin with #, and name it {end}"
    tabs = {line.count("\t") for line in lines if not line.startswith("#")}
    if lines and lines[0].startswith("#") and tabs and not {0, lines[0].count("\t")} & tabs:  # of OmegaT, of dict.cc
        return "a table with remarks above it; remove its first lines, which begin with #, and name it .tsv"
    if any(map(TIMES.match, lines)) or 2 * sum(map(bool, map(_PICTURES.match, lines))) > len(lines):
        return _SUFFIXES[".vtt"]
    if lines and re.match(r"\\id [a-z\d]{3}\b", lines[0]):
        return f"USFM, with marks before its verses; {_AS_TEXT}"
    if lines and lines[0].startswith("<?php"):
        return _PHP
    if any(line.startswith('msgid "') for line in lines):  # not by the name: train.pot is Potawatomi
        return _CATALOGUE
    if lines and (lines[0] in ("{", "[", "[{") or all(line.startswith(('{"', '[{"')) for line in lines)):
        return (
            f"keys and texts of Flutter; {_AS_PO.format('arb2po')}"
            if any('"@@locale"' in line for line in lines)
            else _JSON
        )
    if 2 * sum(line.startswith("<") for line in lines) < len(lines):  # text that happens to begin with a tag
        return None
    text = "\n".join(lines)
    found = _FIRST_ELEMENT.match(text)
    if found and found[1] in _ROOTS:
        return _ROOTS[found[1]]
    return _OTHER_XML if text.startswith(("<?xml", "<!doctype")) else None


def _is_data_set(folder: Path) -> bool:
    names = ("dataset_info.json", "state.json", "dataset_dict.json", "*.parquet", "*/*.parquet")
    return any(True for name in names for _ in folder.glob(name))


def _example(folder: str) -> str:
    """Return a file in a folder, in words, of those that are tables most likely, or else two."""
    ends = ("parquet", "jsonl", "tsv", "csv")
    found = [path for end in ends for depth in ("", "*/") for path in sorted(Path(folder).glob(f"{depth}*.{end}"))]
    found = found[:1] or sorted(one for one in Path(folder).iterdir() if one.is_file() and one.name[0] != ".")[:2]
    return f", as {' and '.join(map(str, found))}" if found else ""
