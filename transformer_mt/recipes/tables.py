"""Which columns of a table, of JSON or of Parquet are the two sides, by what somebody says, by names, by the text."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformer_mt.data.readers.delimited import csv_rows, is_blank, table_lines
from transformer_mt.data.readers.languages import nearest
from transformer_mt.errors import InputError
from transformer_mt.recipes.contents import (
    AS_ROWS,
    LESS_USUAL,
    columns_in,
    delimiter_of,
    has_quotes,
    is_one_object,
    may_be_language,
    two_sides,
    without_text,
)
from transformer_mt.recipes.languages import UNKNOWN, MaybeCodes
from transformer_mt.recipes.names import are_codes, codes_of_file, is_beside, is_code, languages_of_header, written
from transformer_mt.recipes.sides import Files, MaybeColumns, in_order
from transformer_mt.system.lines import first_of

# That are looked at: of tables in the order of length, the first rows have few words.
_MOST_ROWS, _MOST_CHARACTERS = 10_000, 1 << 24
_LEAST_DIFFERENT = 0.2  # of the values; titles and labels stand beside many sentences
# What a row is called: doc-7, menu.open; and, which no text is, "1 Kings 3:16".
_KEY = re.compile(r"(?=\S*[\d_./:])\S+")
_VERSE = re.compile(r"(?:\d )?[^\W\d_]+(?: [^\W\d_]+)* \d+[:.,]\d+")
_OF_PAIRS = ("lp", "pair", "direction")  # above a column of en-de, en-cs, …
_NO_WORDS = {"src", "tgt", "trg", "mt", "hyp", "ref"}  # but the names of columns
_SAME_BEGINNING = 0.9  # of notes: "CC-BY 2.0 (France) Attribution: …"
_BOTH_SIDES = re.compile(r"""\{["'][\w-]+["']: ?["']""")  # a dictionary of Python's or JSON's
_WORDS = re.compile(  # spaces between words, the end of a sentence, letters of scripts without spaces
    r"\S\s+\S|[.!?]$|[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"
)


class _Table(NamedTuple):
    """The beginning of a file with columns."""

    src: str  # the path, or a pattern
    settings: dict[str, Any]  # what is known of the source
    rows: list[list[str]]  # none of JSON and Parquet
    names: list[str]  # of the columns, or the first row
    of_codes: Mapping[str, Sequence[str]]  # the columns that say which language each row is in
    by_name: MaybeCodes  # languages that the file's name tells

    @property
    def languages(self) -> dict[str, str]:
        """The columns that are called like languages, and their codes. What the second row says again is no name."""
        found = languages_of_header(self.names)
        if len({*found.values()}) < len(found):  # "German" and "Deutsch" are a pair of a glossary
            return {}
        second = dict(zip(self.names, self.rows[1], strict=False)) if len(self.rows) > 1 else {}
        return {name: code for name, code in found.items() if second.get(name) != name}

    @property
    def has_header(self) -> bool:
        """Whether the first row names the columns."""
        has_known_name = len(self.names) > 2 and any(map(is_beside, self.names))
        has_known_name |= any(name.strip().lower() in _NO_WORDS for name in self.names)
        return bool(self.languages or self.two_sides) or has_known_name or _is_header(self.rows)

    @property
    def two_sides(self) -> tuple[str, str] | None:
        """The columns that are called source and target, and do not say the language of each row."""
        names = [name for name in self.names if name not in self.of_codes]
        # Beside the columns of two languages, "source" and "reference" say where a row is from.
        return two_sides(names) or (None if len(self.languages) > 1 else two_sides(names, LESS_USUAL))

    def with_columns(self, src: str | int, tgt: str | int, *, has_header: bool | None = None) -> Files:
        """Return the source with two columns; None: it is not said whether there is a header."""
        settings = {**self.settings, "src_column": src, "tgt_column": tgt}
        if has_header or (has_header is not None and "csv" in settings):  # CSV has one where nothing is said
            settings["header"] = has_header
        return Files(settings, self.by_name, "by the name of the file")

    def unclear(self) -> InputError:
        names = ", ".join(self.names[:20])
        return InputError(
            f"{self.src}: has the columns {names}; say with --src-column and --tgt-column which are source and target"
        )


def table_of(kind: str, src: str, files: Sequence[str], columns: MaybeColumns, asked: MaybeCodes) -> Files:
    """Return what a file with columns is.

    Args:
        files: that a pattern leads to.
        columns, asked: as `files_of` has them.

    Raises:
        InputError: it has to be said which columns are which; columns that cannot be.
    """
    rows, first = [], files[0]
    delimiter = delimiter_of(first) if kind == "csv" else None
    if kind == "tsv" or delimiter == "\t":
        rows = _first_rows(line.split("\t") for line in table_lines(first))
        if has_quotes(first, rows):  # Excel's "Unicode Text", what pandas writes
            kind, delimiter = "csv", "\t"
        elif any('"' in cell for row in rows for cell in row):  # they are text, as in Tatoeba's sentences.csv
            kind, delimiter = "tsv", None
    settings = {kind: src}
    if kind == "csv" and delimiter:
        rows = _first_rows(row for _, row in csv_rows(first, delimiter))
        if delimiter != ",":
            settings["delimiter"] = "tab" if delimiter == "\t" else delimiter
    has_names = kind not in ("tsv", "csv")
    columns_of_text = columns_in(kind, first) if has_names else _below(rows)
    of_codes = {name: cells for name, cells in columns_of_text.items() if are_codes(cells, name)}
    names = [name for name in columns_of_text if name not in of_codes] if has_names else rows[0] if rows else []
    table = _Table(src, settings, rows, names, of_codes, codes_of_file(src))
    if len(rows) > 2 and not table.has_header:
        second, third = map(languages_of_header, rows[1:3])
        if len({*second.values()}) > 1 and not third:
            raise InputError(
                f"{src}: the names of its columns are below other text ({', '.join(second)}); delete what is above them"
            )
    if rows:
        _refuse_unlike(table, files, delimiter)
    elif not names and kind == "jsonl" and is_one_object(first):
        raise _one_object(src)
    elif not names and kind in ("jsonl", "parquet"):
        raise without_text(kind, first)
    elif not names:
        raise InputError(f"{src}: empty, or none of its columns is text; each row needs both sides")
    if any(columns):
        return _named(table, columns, asked)
    for name, cells in columns_of_text.items():
        if 2 * sum(map(bool, map(_BOTH_SIDES.match, cells))) > len(cells):
            raise InputError(
                f"{src}: column {name} holds both sides as one text; save the data set as JSON lines (to_json)"
            )
    _refuse_directions(src, of_codes, rows)
    if rows and len(names) == 1:
        raise InputError(
            f"{src}: its first line has one column; each line needs both sides: mend it, or name two files"
        )
    if sides := table.two_sides:
        found = table.with_columns(*sides)
        if beside := two_sides([*of_codes]):
            src_code, tgt_code = (written(of_codes[name][0]) for name in beside)
            found = found._replace(codes=(src_code, tgt_code), how="columns of the file")
        return in_order(found, asked)
    if of_rows := _languages_of_rows(rows):  # no names, but what each row is in
        codes, text = of_rows
        found = table.with_columns(*text, has_header=False)
        return in_order(found._replace(codes=codes, how="columns of the file"), asked)
    if by_language := _by_language(table, asked):
        return by_language
    if rows:
        found = _by_text(table)
        if not any(found.codes) and len(of_codes) == 2:  # beside the text, as in Wordfast's memories
            src_code, tgt_code = (written(cells[0]) for cells in of_codes.values())
            found = found._replace(codes=(src_code, tgt_code), how="columns of the file")
        return in_order(found, asked)
    if len(names) == 2:
        return in_order(_with_language(table.with_columns(*names), table.languages, *names), asked)
    if kind == "jsonl" and is_one_object(first):
        raise _one_object(src)
    if len(names) > 2:
        raise table.unclear()
    raise InputError(f"{src}: columns of text found: {', '.join(names) or 'none'}; {AS_ROWS}")


def _one_object(src: str) -> InputError:
    return InputError(
        f"{src}: is one object, not rows; write an array or one object a line (pandas: orient='records', "
        "lines=True; keys and texts: json2po, Translate Toolkit)"
    )


def _refuse_unlike(table: _Table, files: Sequence[str], delimiter: str | None) -> None:
    """Refuse tables of a pattern that do not all begin with the same names of columns, or with none.

    Raises:
        InputError: two of them differ.
    """
    first, *others = files
    for path in others:
        rows = csv_rows(path, delimiter) if delimiter else ((1, line.split("\t")) for line in table_lines(path))
        row = next((row for _, row in rows if not is_blank(row)), None)
        if row is None or row == table.names:
            continue
        if table.has_header or languages_of_header(row) or two_sides(row):
            raise InputError(
                f"{path}: its columns are not called as those of {first}; give tables of a pattern the same first "
                "line, or a configuration one source for each"
            )


def _below(rows: list[list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the columns of rows by what stands in the first one, without that."""
    return dict(zip(rows[0], itertools.zip_longest(*rows[1:], fillvalue=""), strict=False)) if rows else {}


def _refuse_directions(src: str, of_codes: Mapping[str, Sequence[str]], rows: list[list[str]]) -> None:
    """Refuse a table whose rows are in several languages, as the columns tell that have codes in them.

    Raises:
        InputError: it has several directions, or no pairs.
    """
    columns = [
        cells if name.strip().lower().endswith(_OF_PAIRS) else [re.split("[-_]", cell)[0] for cell in cells]
        for name, cells in of_codes.items()
    ]
    found = Counter(zip(*columns, strict=False))
    if len(found) > 1 and rows and len(_text_columns(rows, len(rows[0]))) == 1:
        raise InputError(
            f"{src}: has one sentence a line with its language, and no pairs; of Tatoeba's files take its sentence "
            "pairs, or join it with links.csv"
        )
    if len(found) > 1:
        shown = ", ".join(f"{number:,} {' to '.join(codes)}" for codes, number in found.most_common(5))
        raise InputError(
            f"{src}: its rows are in several languages ({', '.join(of_codes)}: {shown} of the first "
            f"{found.total():,}); write those of one direction into a file of its own, or say --src-column and "
            "--tgt-column to take them all"
        )


def _first_rows(rows: Iterable[list[str]]) -> list[list[str]]:
    filled = itertools.filterfalse(is_blank, rows)
    return [*first_of(filled, _MOST_ROWS, _MOST_CHARACTERS, lambda row: sum(map(len, row)))]


def _named(table: _Table, columns: MaybeColumns, asked: MaybeCodes) -> Files:
    """Return a table whose columns somebody has named or numbered."""
    if None in columns:
        given, missing = ("--src-column", "--tgt-column")[:: 1 if columns[0] else -1]
        raise InputError(f"{given} {columns[0] or columns[1]}: is one side's column; say {missing} as well")
    src, tgt = (int(one) if table.rows and one.isdigit() else one for one in map(str, columns))
    for side, column, place in zip(("src", "tgt"), columns, (src, tgt), strict=True):
        if place == 0:
            raise InputError(f"--{side}-column {column}: columns are counted from 1")
    if src == tgt:
        raise InputError(f"--src-column {src}, --tgt-column {tgt}: are the same column; name the other side's")
    found = table.with_columns(src, tgt)
    if isinstance(src, int) and isinstance(tgt, int):
        found = table.with_columns(src, tgt, has_header=table.has_header)
        if src > tgt:  # of en-de.tsv, the second one is de
            found = found._replace(codes=found.codes[::-1])
    names: dict[str | int, str] = dict(enumerate(table.names, 1))
    codes = table.languages.get(names.get(src, str(src))), table.languages.get(names.get(tgt, str(tgt)))
    if any(codes):
        found = found._replace(codes=codes, how="a column of the file")
    return found._replace(codes=asked) if all(asked) else found


def _by_language(table: _Table, asked: MaybeCodes) -> Files | None:
    """Return a table with a column for each language that is asked for, or for the only two that it has."""
    languages, codes = table.languages, asked
    if not all(asked):
        if len(languages) != 2:
            return None
        (src, tgt), codes = languages, tuple(languages.values())  # type: ignore[assignment]
    else:
        near = []
        for lang in map(str, asked):
            nearest_codes = nearest(lang, languages.values())
            near.append([name for name in languages if languages[name] in nearest_codes] or nearest(lang, table.names))
        if not (len(near[0]) == len(near[1]) == 1 and near[0] != near[1]):
            return None
        src, tgt = near[0][0], near[1][0]
    names = [name.strip() for name in table.names]
    is_found = all(nearest(str(lang), names) == [name.strip()] for lang, name in zip(codes, (src, tgt), strict=True))
    settings = table.settings if is_found else table.with_columns(src, tgt).settings
    return Files(settings, codes, "a column of the file", is_by_language=True)


def _by_text(table: _Table) -> Files:
    """Return a table of text with its two columns or, of more, the two that have text."""
    names, languages, has_header = table.names, table.languages, table.has_header
    if len(languages) > 1:  # too many, or others than were asked for
        raise table.unclear()
    below = table.rows[1:] or table.rows
    text = _text_columns(below, len(names))
    if len(names) == 2:
        text = _beside_keys(below, text)
    if len(text) != 2 and has_header:
        raise table.unclear()
    if len(text) != 2:
        widths = {len(row) for row in table.rows}
        if len(widths) > 1:
            raise InputError(
                f"{table.src}: has rows of {min(widths)} to {max(widths)} columns; give each as many (in a CSV, quotes "
                "around fields with a delimiter in them)"
            )
        first = ", ".join(f"{cell[:40]!r} ({place})" for place, cell in enumerate(names[:20], 1))
        raise InputError(
            f"{table.src}: which of its columns are source and target? They begin with {first}; give two of the "
            "numbers, or of the names where these are names, to --src-column and --tgt-column"
        )
    found = table.with_columns(text[0] + 1, text[1] + 1, has_header=has_header)
    if text == [0, 1] and not has_header:  # which are read where no columns are named
        del found.settings["src_column"], found.settings["tgt_column"]
    return _with_language(found, languages, names[text[0]], names[text[1]])


def _with_language(found: Files, languages: Mapping[str, str], src: str, tgt: str) -> Files:
    """Return a table with the code of that one of its two columns that is called like a language."""
    if languages.keys().isdisjoint((src, tgt)):
        return found
    src_code, tgt_code = (
        languages.get(name, UNKNOWN if _has_letter(name) and may_be_language(name) else None) for name in (src, tgt)
    )
    return found._replace(codes=(src_code, tgt_code), how="a column of the file")


def _text_columns(rows: list[list[str]], count: int) -> list[int]:
    """Return the places of the columns that have text: words in most cells, and not the same ones, nor notes that all
    begin with the same, as in Tatoeba's lists."""
    columns = [*zip(*(row for row in rows if len(row) == count), strict=True)]
    found = []
    for are_words in (True, False):  # or, in lists, single words
        for place, cells in enumerate(columns):
            are_text = [
                _has_letter(cell) and "://" not in cell and (not are_words or _WORDS.search(cell) is not None)
                for cell in cells
            ]
            is_text = 2 * sum(are_text) > len(cells) and len({*cells}) >= _LEAST_DIFFERENT * len(cells)
            if is_text and not (place > 1 and _begin_alike(cells)):
                found.append(place)
        if found:
            break
    return found


def _begin_alike(cells: Sequence[str]) -> bool:
    beginnings = Counter(cell[:12] for cell in cells)
    return len(cells) >= 10 and max(beginnings.values()) >= _SAME_BEGINNING * len(cells)


def _beside_keys(rows: list[list[str]], text: list[int]) -> list[int]:
    """Return both of two columns, or the one with text where the other has what the rows are called."""
    keys = []
    for place in (0, 1):
        cells = [row[place] for row in rows if len(row) == 2]
        forms = [_VERSE, _KEY] if text == [1 - place] else [_VERSE]
        if any(2 * sum(form.fullmatch(cell) is not None for cell in cells) > len(cells) for form in forms):
            keys.append(place)
    return [1 - keys[0]] if len(keys) == 1 else [0, 1]


def _is_header(rows: list[list[str]]) -> bool:
    """Return whether a table's first row has words above numbers or blanks, or numbers above text."""
    first, *below = rows
    for cell, *cells in zip(first, *below[:100], strict=False):
        are_words = [_has_letter(cell) for cell in cells if cell.strip()]
        if are_words and ((cell.isdigit() and all(are_words)) or (_has_letter(cell) and not any(are_words))):
            return True
    return False


def _has_letter(cell: str) -> bool:
    return any(map(str.isalpha, cell))


def _languages_of_rows(rows: list[list[str]]) -> tuple[MaybeCodes, list[int]] | None:
    """Return the languages that two columns name in each row, where two others are text, and the numbers of those; None
    of other tables."""
    if len(rows) < 2:
        return None
    width = len(rows[0])
    codes = [i for i, name in enumerate(rows[0]) if is_code(name) and all(row[i : i + 1] == [name] for row in rows)]
    text = [i for i in range(width) if i not in codes]
    if len(text) > 2:  # beside scores, say
        text = [i for i in _text_columns(rows, width) if i not in codes]
    if not len(codes) == len(text) == 2:
        return None
    return (written(rows[0][codes[0]]), written(rows[0][codes[1]])), [i + 1 for i in text]
