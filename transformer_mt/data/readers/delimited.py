"""Tables of text: TSV, whose lines are cut at tabs and nowhere else, and CSV, whose fields may stand in quotes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain, islice

from transformer_mt.config.data_sections import TAB, SourceConfig
from transformer_mt.data.readers.languages import nearest, no_column
from transformer_mt.errors import InputError
from transformer_mt.system.console import counted
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG, ends_at_cr, read_lines, read_parts

_FIRST_LINES = 100  # of a CSV tell how it is written
_AS_TSV = "read lines whose quotes are text as tsv"


def read_tsv(path: str, source: SourceConfig, langs: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield two columns of lines whose columns are separated by tabs. A blank line is a pair of two empty sides.

    Raises:
        InputError: no such columns, or a line with another number of columns than the first one.
    """
    return _pairs(path, ((number, line.split("\t")) for number, line in _numbered(path)), source, langs)


def read_csv(path: str, source: SourceConfig, langs: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Yield two columns of a CSV file. A field in double quotes may have line ends, delimiters and doubled quotes.

    Raises:
        InputError: as `read_tsv` does, or quotes that are not as CSV has them.
    """
    return _pairs(path, csv_rows(path, _delimiter(source)), source, langs)


def _delimiter(source: SourceConfig) -> str:
    return "\t" if source.tsv is not None or source.delimiter in TAB else source.delimiter or ","


def _numbered(path: str) -> Iterator[tuple[int, str]]:
    return enumerate(table_lines(path), 1)


def table_lines(path: str) -> Iterator[str]:
    """Yield the lines of a table, which end at CR where none ends at LF."""
    if not ends_at_cr(path):
        yield from read_lines(path, TOO_LONG)
        return
    rest = ""
    for part in read_parts(path):
        *lines, rest = (rest + "".join(part)).replace("\n", "\r").split("\r")
        if max(map(len, (*lines, rest))) > LONGEST_LINE:
            raise InputError(f"{path}: a line of more than {LONGEST_LINE >> 20} MiB; break it into lines")
        yield from lines


def csv_rows(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file, each with the number of its first line; blank ones, and Excel's sep=;, are none."""
    csv.field_size_limit(LONGEST_LINE)
    lines = _lines_with_ends(path)
    first = list(islice(lines, _FIRST_LINES))
    # Between fields, as people write them. Inside of a field a quote is doubled, so this one begins a field.
    has_spaces = any(re.search(rf'{re.escape(delimiter)} +"\w', line) for line in first)
    rows = csv.reader(chain(first, lines), delimiter=delimiter, skipinitialspace=has_spaces, strict=True)
    number = 1
    try:
        for row in rows:
            if row and not (number == 1 and row[0].casefold().startswith("sep=")):
                yield number, row
            number = rows.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {number}: quotes that are not as CSV has them ({error}); mend the line (a field with a "
            f"quote in it stands in quotes and has it twice), set delimiter, or {_AS_TSV}"
        ) from None


def _lines_with_ends(path: str) -> Iterator[str]:
    for line in table_lines(path):
        *before, last = line.split("\r")
        yield from (f"{part}\r" for part in before)
        yield f"{last}\n"


def _pairs(
    path: str, rows: Iterator[tuple[int, list[str]]], source: SourceConfig, langs: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    first: list[str] | None = None
    src = tgt = 0
    fuzzy: int | None = None  # the column that says "True" of what is not translated, in Weblate's tables
    is_second = False
    for number, row in rows:
        if row == [TOO_LONG]:
            yield TOO_LONG, TOO_LONG
            continue
        if (len(row) == 1 or first is None) and is_blank(row):
            yield "", ""
            continue
        if first is None:
            src, tgt, has_header = _places(row, f"{path}, line {number}", source, langs)
            first = row
            if has_header:
                fuzzy = row.index("fuzzy") if "fuzzy" in row else None
                is_second = True
                continue
        if is_second and len(row) == len(first) and (row[src], row[tgt]) == (first[src], first[tgt]):
            raise InputError(
                f"{path}, line {number}: {row[src]!r} and {row[tgt]!r} once more: no names of columns, then; "
                "give the numbers of the columns with the text as src_column and tgt_column, and header: false"
            )
        if len(row) != len(first):
            raise InputError(
                f"{path}, line {number}: {counted(len(row), 'column')} where the first line has {len(first)}; "
                "mend the line" + _other_remedies(row, len(first), max(src, tgt), source, is_second=is_second)
            )
        is_second = False
        yield row[src], "" if fuzzy is not None and row[fuzzy] == "True" else row[tgt]


def _other_remedies(row: list[str], width: int, last_of_text: int, source: SourceConfig, *, is_second: bool) -> str:
    """What else to do than to mend a line, perhaps the second, that has more or fewer columns than the first one."""
    remedies = ""
    if len(row) == width + 1 and is_second:
        remedies = ", or, where all lines below the first have one more, name that column as well (R: col.names=NA)"
    if len(row) < width and row[-1].endswith("\\"):
        remedies = ", or, of a database that wrote \\ before line ends inside of a field, export it with quotes"
    elif len(row) < width:
        superfluous = "the rows without a translation" if len(row) <= last_of_text else "the columns behind the text"
        remedies = f", or, of a spreadsheet that left out empty cells at the ends of lines, delete {superfluous}"
    if source.tsv:
        return f"{remedies}, or read a table with quotes around its fields as csv with delimiter: tab"
    return f"{remedies}, or {_AS_TSV}" if len(row) > width and _delimiter(source) == "\t" else remedies


def is_blank(row: list[str]) -> bool:
    """Return whether no cell of a row has anything but white space."""
    return not any(map(str.strip, row))


def _places(row: list[str], origin: str, source: SourceConfig, langs: tuple[str, str]) -> tuple[int, int, bool]:
    """Return where two columns of a table are, by its first line, and whether that has the columns' names."""
    given = source.src_column, source.tgt_column
    names = [name.strip().casefold() for name in row]
    codes = [nearest(lang, names) for lang in langs]
    if given == (None, None) and source.header is not False and all(codes) and codes[0] != codes[1]:
        one, other = (found[0] if len(found) == 1 else lang for found, lang in zip(codes, langs, strict=True))
        given = one, other
    elif given == (None, None) and (source.tsv or source.header is False):
        given = 1, 2
    src, tgt = (
        _place(lang if column is None else column, row, names, origin, source)
        for column, lang in zip(given, langs, strict=True)
    )
    is_named = any(not isinstance(column, int) for column in given)
    has_codes = all(nearest(lang, [names[place]]) for lang, place in zip(langs, (src, tgt), strict=True))
    return src, tgt, (is_named or has_codes) if source.header is None else source.header


def _place(column: str | int, row: list[str], names: list[str], origin: str, source: SourceConfig) -> int:
    delimiter = _delimiter(source)
    how = "tabs" if delimiter == "\t" else f"{delimiter!r}" + (", see delimiter" if len(row) == 1 else "")
    found = f"columns found, separated by {how}: {len(row)}"
    if isinstance(column, int):
        if column > len(row):
            raise InputError(
                f"{origin}: no column {column} ({found}); mend the line, or name the right ones with src_column and "
                "tgt_column"
            )
        return column - 1
    if (count := names.count(column.strip().casefold())) != 1:
        problem = f"{count} columns are called {column!r}" if count else no_column(column, names)
        raise InputError(
            f"{origin}: {problem}; it has {_shown(row)} ({found}); give names or numbers with "
            "src_column and tgt_column, and header: false where the first line is text"
        )
    return names.index(column.strip().casefold())


def _shown(row: list[str]) -> str:
    """A few names of columns, or what stands there instead, on one line."""
    names = [" ".join(name.split())[:40] for name in row[:10]]
    return ", ".join(names + ["…"] * (len(row) > 10))
