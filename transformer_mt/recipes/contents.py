"""What the beginning of a file of pairs tells of its columns and languages."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformer_mt.data.readers.delimited import csv_rows, table_lines
from transformer_mt.data.readers.json_rows import json_rows
from transformer_mt.data.readers.languages import code_of_name
from transformer_mt.data.readers.po import lines_of
from transformer_mt.data.readers.xml_units import XML_LANG, Units, local, read_units
from transformer_mt.errors import InputError
from transformer_mt.recipes.names import without_parentheses, written
from transformer_mt.system.console import shortened

# What the columns of both sides are called; where "src" and "src_lang" are both there, the former has the text.
_TEXT = "text|sentence|sent|segment|string|phrase"
_TRANSLATION = "translation|übersetzung|traduction|traducción|번역|번역문|訳文|译文"
_Words = tuple[re.Pattern[str], re.Pattern[str]]  # of the source and the target


def _words(src: str, tgt: str, of: str) -> _Words:
    src_words, tgt_words = (re.compile(rf"(?:{side})(?:[_ -]?(?:{of}))?", re.IGNORECASE) for side in (src, tgt))
    return src_words, tgt_words


_WORDS = (
    _words(
        "source|src|quelle|quelltext|ausgangstext|origen|원문|原文",
        f"target|tgt|trg|ziel|zieltext|cible|destino|{_TRANSLATION}",
        _TEXT,
    ),
    _words("source|src", "target|tgt|trg|translation", "lang|language"),
    _words(f"{_TEXT}|original|input|term|begriff|word|wort|front", f"translated|output|back|{_TRANSLATION}", _TEXT),
    _words("input", "target", _TEXT),
    _words(f"(?:{_TEXT})[_ ]?1", f"(?:{_TEXT})[_ ]?2", _TEXT),
)
LESS_USUAL = (  # names, where no languages are columns
    _words("source|src", "reference|ref", _TEXT),  # beside what machines have made, and scores
    _words("from", "to", _TEXT),
)
_MOST_ROWS = 100  # that are looked at for columns: of a few a side may be missing
_SHARE_OF_LINES = 0.8  # of them; what others have is told by their reader
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_FEWEST_QUOTED = 5  # fields
AS_ROWS = 'each row needs two, by language, as {"en": "A dog", "de": "Ein Hund"}, bare or as its column "translation"'
_SHOWN = 200  # characters of what columns there are
_MOST_ELEMENTS = 10_000  # of an XML file that are looked at for languages


def two_sides(names: Sequence[str], words_of_sides: Sequence[_Words] = _WORDS) -> tuple[str, str] | None:
    """Return the columns that are called source and target, in one of the usual words: "Source (EN)"."""
    bare = {name: without_parentheses(name) for name in names}
    for words in words_of_sides:
        src, tgt = ([name for name in names if side.fullmatch(bare[name])] for side in words)
        if len(src) == len(tgt) == 1:
            return src[0], tgt[0]
    return None


def may_be_language(name: str) -> bool:
    """Return whether a column is called as none of text usually is: not "translation", but perhaps "Mixtec"."""
    bare = without_parentheses(name)
    return not any(side.fullmatch(bare) for words in _WORDS for side in words)


def delimiter_of(path: str) -> str:
    """Return what a CSV's fields are separated by: what cuts its first rows into as many fields each, or its first line
    into most."""
    first = next(filter(None, table_lines(path)), "").partition("\r")[0]
    return max(",;\t|", key=lambda one: (_is_even(path, one), first.count(one)))


def _is_even(path: str, delimiter: str, num_rows: int = _MOST_ROWS) -> bool:
    try:
        widths = {len(row) for _, row in itertools.islice(csv_rows(path, delimiter), num_rows)}
    except InputError:  # quotes are elsewhere
        return False
    return len(widths) == 1 and max(widths) > 1


def columns_in(kind: str, path: str) -> dict[str, list[str]]:
    """Return the columns of JSON or Parquet that hold text, or those inside "translation", and what begins them."""
    rows = _columns(_first_rows(kind, path))
    names = dict.fromkeys(name for row in rows for name in row)
    cells = {str(name): [cell for row in rows if isinstance(cell := row.get(name), str)] for name in names}
    return {name: text for name, text in cells.items() if text}


def _columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row["translation"] for row in rows if isinstance(row.get("translation"), dict)] or rows


def without_text(kind: str, path: str) -> InputError:
    """Return that no column of JSON or Parquet is text, and what they are instead."""
    if kind == "parquet":
        from pyarrow.parquet import read_schema

        kinds = {field.name: str(field.type) for field in read_schema(path)}
    else:
        kinds = {name: type(cell).__name__ for row in _columns(_first_rows(kind, path)) for name, cell in row.items()}
    shown = shortened(", ".join(f"{name} ({kind})" for name, kind in kinds.items()), _SHOWN)
    return InputError(f"{path}: none of its columns is text: {shown}; {AS_ROWS}")


def is_table(path: str) -> bool:
    """Return whether most of the first lines of a text have tabs, as many each, or its first rows do, with line ends
    inside of quotes."""
    tabs = Counter(line.count("\t") for line in itertools.islice(table_lines(path), _MOST_ROWS) if line.strip())
    is_even = any(number > 0 and count >= _SHARE_OF_LINES * tabs.total() for number, count in tabs.items())
    return is_even or (tabs.total() > tabs[0] and _is_even(path, "\t"))


def has_bars(path: str) -> bool:
    """Return whether the first lines of a text have ||| in them, as word aligners and Moses have between sides."""
    lines = [line for line in itertools.islice(table_lines(path), _MOST_ROWS) if line.strip()]
    return bool(lines) and all(" ||| " in line for line in lines)


def has_quotes(path: str, rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the rows of a table, cut at tabs, have quotes as CSV has them: around what has a comma, a quote or
    a line end in it, as spreadsheets write them, or around that alone which has a quote or a line end in it."""
    cells = [cell for row in rows for cell in row if "," in cell or '"' in cell]
    num_quoted = sum(map(bool, map(_QUOTED.fullmatch, cells)))
    if len(cells) >= _FEWEST_QUOTED and num_quoted >= 0.9 * len(cells):
        return True
    quoted = [cell for cell in cells if '"' in cell]
    if any('""' in cell[1:-1] for cell in quoted) and all(map(_QUOTED.fullmatch, quoted)):
        return True
    return len({*map(len, rows)}) > 1 and _is_even(path, "\t", len(rows))


def _first_rows(kind: str, path: str) -> list[dict[str, Any]]:
    if kind == "parquet":
        from pyarrow.parquet import ParquetFile

        try:
            with open(path, "rb") as raw, ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False) as file:
                names = [field.name for field in file.schema_arrow if _may_have_text(field.type)]
                if not names and file.metadata.num_rows:
                    raise without_text(kind, path)
                batch = next(iter(file.iter_batches(_MOST_ROWS, columns=names)), None)
                rows = [] if batch is None else batch.to_pylist()
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: cannot be read as Parquet ({reason}); check the path and the file") from None
    else:
        rows = []
        for origin, row in itertools.islice((one for one in json_rows(path) if one[1] != ("", "")), _MOST_ROWS):
            if not isinstance(row, dict):
                raise InputError(
                    f"{origin}: one JSON object a line is needed, or an array of them; make some of other rows, as of "
                    "arrays: jq -c '{en: .[0], de: .[1]}'"
                )
            rows.append(row)
    if not any(rows):
        raise InputError(f"{path}: no rows with columns in it; check the file")
    return rows


def _may_have_text(kind: Any) -> bool:
    """Return whether a type of Parquet's columns is text, or has a column of text inside."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(map(_may_have_text, (field.type for field in kind)))
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_one_object(path: str) -> bool:
    """Return whether a file of JSON has one row, which is of one object then, and not of a pair."""
    return sum(1 for _ in itertools.islice(json_rows(path), 2)) == 1


class _EnoughError(Exception):
    """The beginning of a file has told what it can."""


class _Languages(Units):
    """Hears of the languages that an XML file of units is in."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.source: str | None = None
        self.codes: dict[str, None] = {}
        self._num_elements = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or local(tag)
        for key in ("srclang", "source-language", "srcLang"):
            self.source = self.source or attributes.get(key)
        is_variant = local(tag) == "tuv"
        names = ("lang", XML_LANG) if is_variant else ("source-language", "srcLang", "target-language", "trgLang")
        self.codes |= {attributes[name]: None for name in names if attributes.get(name)}
        self._num_elements += 1
        if self._num_elements > _MOST_ELEMENTS:
            raise _EnoughError


def codes_in(kind: str, path: str) -> Sequence[str | None]:
    """Return the languages that the beginning of a file has, the source's first where it says which that is; of formats
    that have two, None where it does not say one."""
    if kind == "po":
        header = "\n".join(itertools.islice(lines_of(path), 100))
        src, tgt = (
            found[1]
            if (found := re.search(rf'(?:^(?:msgstr )?"|\\n){key}:\s*([\w-]+)', header, re.MULTILINE))
            else None
            for key in ("X-Source-Language", "Language")
        )
        return [code and (code_of_name(code) or code) for code in (src or "en", tgt)]  # messages: in English as a rule
    units = _Languages(kind)
    with contextlib.suppress(_EnoughError):
        for _ in read_units(path, units):
            pass
    source = (units.source or "").lower()
    codes: dict[str, str] = {}
    for code in units.codes:  # en-US and EN-US are one
        codes.setdefault(code.casefold(), code)
    in_order = sorted(codes.values(), key=lambda code: code.lower() != source)
    as_written = [_code_in(code) for code in in_order]
    if kind == "xliff" and len(as_written) < 2:
        one = as_written[0] if as_written else None
        return [one, None] if source else [None, one]
    return as_written


def _code_in(code: str) -> str:
    """Return a code as it is written as a rule, or that of a name: en for "English (US)"."""
    return code_of_name(code) or code_of_name(code.partition("(")[0]) or written(code)
