"""Which columns of a table, of JSON or of Parquet are the two sides, by what somebody says, by names, by the text."""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple

from transformer_mt.data.readers.languages import distance, nearest
from transformer_mt.errors import InputError
from transformer_mt.recipes.contents import columns_in, delimiter_of, is_one_object, table_rows, two_sides
from transformer_mt.recipes.languages import MaybeCodes
from transformer_mt.recipes.names import codes_of_file, is_beside, is_code, languages_of_header, written
from transformer_mt.recipes.sides import Files, MaybeColumns, in_order

_MOST_ROWS = 10_000  # are looked at: of tables in the order of length, the first have few words
_LEAST_DIFFERENT = 0.2  # of the values; titles and labels stand beside many sentences
_WORDS = re.compile(  # spaces between words, the end of a sentence, letters of scripts without spaces
    r"\S\s+\S|[.!?]$|[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]"
)


class _Table(NamedTuple):
    """The beginning of a file with columns."""

    src: str  # the path, or a pattern
    settings: dict[str, Any]  # what is known of the source
    rows: list[list[str]]  # none of JSON and Parquet
    names: list[str]  # of the columns, or the first row
    by_name: MaybeCodes  # languages that the file's name tells

    @property
    def languages(self) -> dict[str, str]:
        """The columns that are called like languages, and their codes. What the second row says again is no name."""
        found = languages_of_header(self.names)
        if len({*found.values()}) < len(found):  # "German" and "Deutsch" are a pair of a glossary
            return {}
        return {name: code for name, code in found.items() if len(self.rows) < 2 or name not in self.rows[1]}

    def with_columns(self, src: str | int, tgt: str | int, **header: bool) -> Files:
        columns = {"src_column": src, "tgt_column": tgt}
        return Files({**self.settings, **columns, **header}, self.by_name, "by the name of the file")

    def unclear(self) -> InputError:
        names = ", ".join(self.names[:20])
        return InputError(
            f"{self.src}: has the columns {names}; say with --src-column and --tgt-column which are source and target"
        )


def table_of(kind: str, src: str, first: str, columns: MaybeColumns, asked: MaybeCodes) -> Files:
    """Return what a file with columns is.

    Args:
        first: the first of the files that a pattern leads to.
        columns, asked: as `files_of` has them.

    Raises:
        InputError: it has to be said which columns are which; columns that cannot be.
    """
    is_text = kind in ("tsv", "csv")
    rows = [*itertools.islice(filter(any, table_rows(kind, first)), _MOST_ROWS)] if is_text else []
    names = rows[0] if rows else columns_in(kind, first)
    table = _Table(src, {kind: src, **delimiter_of(kind, first)}, rows, names, codes_of_file(src))
    if any(columns):
        return _named(table, columns, asked)
    if rows and len(names) == 1:
        raise InputError(
            f"{src}: its first line has one column; each line needs both sides: mend it, or name two files"
        )
    if sides := two_sides(names):
        return in_order(table.with_columns(*sides), asked)
    if of_rows := _languages_of_rows(rows):  # no names, but what each row is in
        codes, text = of_rows
        found = table.with_columns(*text, **({"header": False} if kind == "csv" else {}))
        return in_order(found._replace(codes=codes, how="columns of the file"), asked)
    if by_language := _by_language(table, asked):
        return by_language
    if rows:
        return in_order(_by_text(table, asked), asked)
    if len(names) != 2 and kind == "jsonl" and is_one_object(first):
        raise InputError(
            f"{src}: is one object, not rows; write an array or one object a line (pandas: orient='records', "
            "lines=True; keys and texts: json2po, Translate Toolkit)"
        )
    if len(names) < 2:
        raise InputError(f"{src}: columns of text found: {', '.join(names) or 'none'}; each row needs two")
    if len(names) > 2:
        raise table.unclear()
    return in_order(table.with_columns(*names), asked)


def _named(table: _Table, columns: MaybeColumns, asked: MaybeCodes) -> Files:
    """Return a table whose columns somebody has named or numbered."""
    options = ("--src-column", "--tgt-column")
    for option, column, other, its_column in zip(options, columns, options[::-1], columns[::-1], strict=True):
        if column is not None and its_column is None:
            raise InputError(f"{option} {column}: is one side's column; say {other} as well")
        if table.rows and column is not None and column.isdigit() and int(column) == 0:
            raise InputError(f"{option} {column}: columns are counted from 1")
    src, tgt = (int(one) if table.rows and one.isdigit() else one for one in map(str, columns))
    if src == tgt:
        raise InputError(f"--src-column {src}, --tgt-column {tgt}: are the same column; name the other side's")
    found = table.with_columns(src, tgt)
    languages = table.languages
    if isinstance(src, int) and isinstance(tgt, int):
        names = [table.names[one - 1] if one <= len(table.names) else "" for one in (src, tgt)]
        has_header = any(name in languages for name in names) or two_sides(table.names) or _is_header(table.rows)
        if has_header or "csv" in table.settings:
            found = table.with_columns(src, tgt, header=bool(has_header))
        if src > tgt:  # of en-de.tsv, the second one is de
            found = found._replace(codes=found.codes[::-1])
    else:
        names = [str(src), str(tgt)]
    if any(name in languages for name in names):
        codes = languages.get(names[0]), languages.get(names[1])
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
    names = [name.strip() for name in table.names] if table.rows else table.names
    is_found = all(nearest(str(lang), names) == [name.strip()] for lang, name in zip(codes, (src, tgt), strict=True))
    settings = table.settings if is_found else table.with_columns(src, tgt).settings
    return Files(settings, codes, "a column of the file", is_by_language=True)


def _by_text(table: _Table, asked: MaybeCodes) -> Files:
    """Return a table of text with the first two of its columns or, of more, the two that have text."""
    names, languages = table.names, table.languages
    has_header = bool(languages) or _is_header(table.rows) or (len(names) > 2 and any(map(is_beside, names)))
    if len(languages) > 1:  # too many, or others than were asked for
        raise table.unclear()
    text = [0, 1]
    if len(names) > 2:
        below = table.rows[1:] or table.rows
        text = _text_columns(below, len(names))
        if text[:2] == [0, 1] and not has_header:
            text = [0, 1]
        if len(text) != 2 and has_header:
            raise table.unclear()
        if len(text) != 2:
            shown = " and ".join(repr(cell[:40]) for cell in below[0][:2])
            raise InputError(
                f"{table.src}: the first two of its {len(names)} columns begin with {shown}; say with --src-column and "
                "--tgt-column which are source and target"
            )
    header = {"header": has_header} if has_header or "csv" in table.settings else {}
    found = table.with_columns(text[0] + 1, text[1] + 1, **header)
    if text == [0, 1] and not has_header:
        found = found._replace(settings=table.settings | header)
    if not languages:
        return found
    ((name, code),) = languages.items()
    codes = (code, None) if name == names[text[0]] else (None, code)
    found = found._replace(codes=codes, how="a column of the file")
    other = asked[1] if codes[0] else asked[0]
    return found.turned() if other and distance(other, code) is not None else found


def _text_columns(rows: list[list[str]], count: int) -> list[int]:
    """Return the places of the columns that have text: words in most cells, and not the same ones."""
    columns = [*zip(*(row for row in rows if len(row) == count and any(row)), strict=True)]
    found = []
    for are_words in (True, False):  # or, in lists, single words
        for place, cells in enumerate(columns):
            are_text = [
                _has_letter(cell) and "://" not in cell and (not are_words or _WORDS.search(cell) is not None)
                for cell in cells
            ]
            if 2 * sum(are_text) > len(cells) and len({*cells}) >= _LEAST_DIFFERENT * len(cells):
                found.append(place)
        if found:
            break
    return found


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
    """Return the languages that two columns name in each row, where the other columns are text, and the numbers of
    those; None of other tables."""
    if len(rows) < 2 or len(rows[0]) != 4:
        return None
    places = [i for i, name in enumerate(rows[0]) if is_code(name) and all(row[i : i + 1] == [name] for row in rows)]
    if len(places) != 2:
        return None
    text = [i + 1 for i in range(4) if i not in places]
    return (written(rows[0][places[0]]), written(rows[0][places[1]])), text
