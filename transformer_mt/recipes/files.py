"""What somebody's files are: the source that reads them, and the languages that their names or contents tell."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.readers.languages import code_of_name, is_language, nearest
from transformer_mt.data.readers.plain_text import files_of as matching_files
from transformer_mt.data.readers.plain_text import refuse_stream
from transformer_mt.errors import InputError
from transformer_mt.recipes.contents import codes_in, columns_in, delimiter_of, is_table, table_rows, two_sides
from transformer_mt.recipes.languages import MaybeCodes
from transformer_mt.recipes.unread import refuse_unread
from transformer_mt.system.compression import COMPRESSED

MaybeColumns = tuple[str | None, str | None]  # names or numbers, of the source and the target

# The kind of source that reads a file of pairs, by the end of its name.
_KINDS = {
    **{".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"},
    **{".parquet": "parquet", ".tmx": "tmx", ".xlf": "xliff", ".xliff": "xliff", ".po": "po"},
    **{".sdlxliff": "xliff", ".mqxliff": "xliff", ".mxliff": "xliff"},
}

_CODE = re.compile(r"([a-z]{2,3})(?:[-_][a-z]{4})?(?:[-_][a-z]{2})?", re.IGNORECASE)
_TWO_CODES = re.compile(r"([a-z]{2,3})[-_]([a-z]{2,3})", re.IGNORECASE)
_LOCALE = r"(?<![A-Za-z])[a-z]{2,3}(?:[-_][A-Z][a-z]{3})?[-_][A-Z]{2}(?![A-Za-z])"  # en_US, zh-Hans-CN
_TWO_LOCALES = re.compile(rf"({_LOCALE})[-_.]({_LOCALE})")
_NO_CODES = {
    *("src", "tgt", "trg", "ref", "hyp", "txt", "tok", "raw", "bpe", "new", "old", "in", "out", "and", "to", "all"),
}
_NO_SCRIPTS = tuple(f"{mark}{word}" for mark in "-_" for word in ("text", "lang", "sent", "line", "code", "word"))
_MOST_ROWS = 100  # of a table are looked at, where a header may stand above numbers
# Of columns beside those of text; some are codes as well.
_BESIDE = {"id", "idx", "sid", "uid", "key", "nr", "no", "num", "row", "tag", "url"}


class Files(NamedTuple):
    """A source as somebody named it on the command line."""

    settings: dict[str, Any]  # as a configuration has them
    codes: MaybeCodes
    how: str  # the codes are known

    @property
    def source(self) -> SourceConfig:
        return SourceConfig(**self.settings)


def files_of(src: str, tgt: str | None, columns: MaybeColumns, asked: MaybeCodes) -> Files:
    """Return the source that two files are, or one file of pairs where ``tgt`` is None.

    Args:
        columns: those of a file of pairs that hold the two sides, where somebody has named them.
        asked: the languages, where somebody has named them.

    Raises:
        InputError: files that cannot be a source; columns or languages that have to be named.
    """
    for path in filter(None, (src, tgt)):
        refuse_stream(path)
    if tgt is not None:
        return _two_files(src, tgt)
    kind = kind_of(src) or "tsv"
    settings: dict[str, Any] = {kind: src}
    first = _first_of(src)
    if kind in ("tsv", "csv") or Path(first).is_dir():
        refuse_unread(first)
    # Tables are called deu.txt, too: Tatoeba's pairs for flash cards are.
    if kind_of(src) is None and not is_table(first):
        raise InputError(
            f"{src}: is one side of the text; name the file of the other side as well, or a file of pairs "
            f"({', '.join(_KINDS)})"
        )
    if kind in ("tmx", "xliff", "po"):
        codes = codes_in(kind, first)
        both = (asked[0] or codes[0], asked[1] or codes[1]) if len(codes) == 2 else asked
        if not all(both):
            found = ", ".join(filter(None, codes)) or "none"
            raise InputError(f"{src}: has the languages {found}; say with --src-lang and --tgt-lang which to take")
        return Files(settings, both, "as the file has it")
    return _table(kind, src, first, columns, asked)


def _two_files(src: str, tgt: str) -> Files:
    pairs = [path for path in (src, tgt) if kind_of(path) not in (None, "tsv")]
    if {*map(kind_of, pairs)} <= {"jsonl", "csv", "parquet"} and len(pairs) == 2:
        raise InputError(
            f"{src} and {tgt}: of tables and JSON, both sides are read from one file; write one file with both, or the "
            "text of each side, one a line (keys and texts: json2po -t SOURCE TARGET both.po, Translate Toolkit)"
        )
    if pairs:
        raise InputError(f"{pairs[0]}: is a file of pairs, with both sides in it; name it without a second file")
    if src == tgt:
        raise InputError(f"{src}: is named for both sides; name the file of the other language")
    for path in (src, tgt):
        refuse_unread(_first_of(path))
    return Files({"src": src, "tgt": tgt}, codes_of_names(src, tgt), "by the names of the files")


def _first_of(path: str) -> str:
    """Return the first of the files that a pattern leads to."""
    return matching_files(SourceConfig(tsv=path).tsv or ())[0]


def _table(kind: str, src: str, first: str, columns: MaybeColumns, asked: MaybeCodes) -> Files:
    """Return what a file with columns is; ``first`` is the first of those that a pattern leads to."""
    how, codes_of_name = "by the name of the file", _codes_of_name(src)
    settings: dict[str, Any]
    if all(columns):
        named = [int(one) if kind in ("tsv", "csv") and one.isdigit() else one for one in map(str, columns)]
        settings = {kind: src, **delimiter_of(kind, first), "src_column": named[0], "tgt_column": named[1]}
        if kind == "csv" and all(isinstance(one, int) for one in named):
            settings["header"] = two_sides(columns_in(kind, first)) is not None
        return Files(settings, codes_of_name, how)
    names = columns_in(kind, first)
    settings = {kind: src, **delimiter_of(kind, first)}
    if sides := two_sides(names):
        return Files({**settings, "src_column": sides[0], "tgt_column": sides[1]}, codes_of_name, how)
    rows = [*itertools.islice(table_rows(kind, first), _MOST_ROWS)] if kind in ("tsv", "csv") else []
    if rows and (of_rows := _languages_of_rows(rows)):  # no names, but what each row is in
        codes, text = of_rows
        header = {"header": False} if kind == "csv" else {}
        return Files({**settings, "src_column": text[0], "tgt_column": text[1], **header}, codes, "columns of the file")
    if all(asked):
        near = [nearest(lang, names) for lang in asked if lang]
        if len(near[0]) == len(near[1]) == 1 and near[0] != near[1]:
            return Files(settings, asked, "a column of the file")
    found_codes = [code for name in names if (code := code_of_name(name) or (name if _is_code(name) else None))]
    if len(names) > 2:
        found_codes = [code for code in found_codes if code.lower() not in _BESIDE]
    if len(found_codes) == 2:
        return Files(settings, (found_codes[0], found_codes[1]), "a column of the file")
    if rows and len(names) > 2:
        _, *below = rows
        if found_codes or any(name.strip().lower() in _BESIDE for name in names):  # a header, which tells too little
            raise InputError(
                f"{src}: has the columns {', '.join(names[:20])}; say with --src-column and --tgt-column which are "
                "source and target"
            )
        are_text = [[any(map(str.isalpha, cell)) for cell in row[:2]] for row in rows]
        if not all(are_text[0]) or (below and not all(map(any, zip(*are_text[1:], strict=False)))):
            shown = " and ".join(repr(cell[:40]) for cell in (below or rows)[0][:2])
            raise InputError(
                f"{src}: the first two of its {len(names)} columns begin with {shown}; say with --src-column and "
                "--tgt-column which are source and target"
            )
    if kind == "tsv":  # without a header: the first two columns
        return Files(settings, codes_of_name, how)
    if kind == "csv":
        return Files({**settings, "header": False}, codes_of_name, how)
    if len(names) != 2:
        found = ", ".join(names[:20]) or "none"
        raise InputError(
            f"{src}: has the columns {found}; say with --src-column and --tgt-column which are source and target"
        )
    return Files({**settings, "src_column": names[0], "tgt_column": names[1]}, codes_of_name, how)


def _languages_of_rows(rows: list[list[str]]) -> tuple[MaybeCodes, list[int]] | None:
    """Return the languages that two columns name in each row, where the other columns are text, and the numbers of
    those; None of other tables."""
    if len(rows) < 2 or len(rows[0]) != 4:
        return None
    places = [i for i, name in enumerate(rows[0]) if _is_code(name) and all(row[i : i + 1] == [name] for row in rows)]
    if len(places) != 2:
        return None
    text = [i + 1 for i in range(4) if i not in places]
    return (rows[0][places[0]], rows[0][places[1]]), text


def kind_of(path: str) -> str | None:
    """Return the kind of source that a file of pairs is by its name, or None."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None


def codes_of_names(src: str, tgt: str) -> MaybeCodes:
    """Return the languages of two files by what differs in their paths: train.en and train.de, en/text and de/text."""
    # Locales are not cut: en_US is one part.
    whole = [re.sub(_LOCALE, lambda found: found[0].replace("_", "\0").replace("-", "\1"), path) for path in (src, tgt)]
    for separators in r"[/.]+", r"[/._]+", r"[/._-]+":
        parts = [[part for part in re.split(separators, path) if part] for path in whole]
        if len(parts[0]) == len(parts[1]):
            pairs = [
                tuple(part.replace("\0", "_").replace("\1", "-") for part in both) for both in zip(*parts, strict=True)
            ]
            for one, other in reversed([both for both in pairs if both[0] != both[1]]):
                if all(_is_code(code) and is_language(re.split("[-_]", code)[0]) for code in (one, other)):
                    return _written(one), _written(other)
    return None, None


def _codes_of_name(path: str) -> MaybeCodes:
    """Return the languages of a file of pairs by its name: corpus.en-de.tsv. ko-KR.tsv tells one only."""
    name = Path(path).name
    if locales := _TWO_LOCALES.search(name):
        return locales[1], locales[2]
    for part in re.split(r"[.]+", re.sub(_LOCALE, "", name))[::-1]:
        found = _TWO_CODES.fullmatch(part) or re.search(rf"(?:^|_){_TWO_CODES.pattern}$", part, re.IGNORECASE)
        if found and all(_is_code(code) and is_language(code) for code in found.groups()):
            return _written(found[1]), _written(found[2])
    return None, None


def _is_code(text: str) -> bool:
    found = _CODE.fullmatch(text)
    return found is not None and found[1].lower() not in _NO_CODES and not text.lower().endswith(_NO_SCRIPTS)


def _written(code: str) -> str:
    return code.lower() if code.isupper() else code
