"""What somebody's files are: the source that reads them, and the languages that their names or contents tell."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.errors import InputError
from transformer_mt.recipes.languages import MaybeCodes
from transformer_mt.system.compression import COMPRESSED, READ_ERRORS, open_binary
from transformer_mt.system.lines import read_error, read_lines

MaybeColumns = tuple[str | None, str | None]  # names or numbers, of the source and the target

# The kind of source that reads a file of pairs, by the end of its name.
_KINDS = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".tmx": "tmx"}

_CODE = re.compile(r"[a-z]{2,3}([-_][a-z]{2,4})?", re.IGNORECASE)
_TWO_CODES = re.compile(r"([a-z]{2,3})[-_]([a-z]{2,3})", re.IGNORECASE)
_NO_CODES = {
    *("src", "tgt", "trg", "ref", "hyp", "txt", "tok", "raw", "bpe", "new", "old", "in", "out", "and", "to", "all"),
}


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
    if "-" in (src, tgt):
        raise InputError("stdin: training reads its text more than once; write it to a file and name that")
    if tgt is not None:
        if pairs := [path for path in (src, tgt) if kind_of(path) not in (None, "tsv")]:
            raise InputError(f"{pairs[0]}: is a file of pairs, with both sides in it; name it without a second file")
        if src == tgt:
            raise InputError(f"{src}: is named for both sides; name the file of the other language")
        return Files({"src": src, "tgt": tgt}, codes_of_names(src, tgt), "by the names of the files")
    kind = kind_of(src)
    if kind is None:
        raise InputError(
            f"{src}: is one side of the text; name the file of the other side as well, or a file of pairs "
            f"({', '.join(_KINDS)})"
        )
    if kind == "tmx":
        codes = (
            (asked[0], asked[1]) if all(asked) else _two_of(src, "languages", _tmx_codes(src), "--src-lang, --tgt-lang")
        )
        return Files({kind: src}, codes, "as the file has it")
    if all(columns):
        named = [int(str(one)) if kind == "tsv" and str(one).isdigit() else one for one in columns]
        settings = {kind: src, "src_column": named[0], "tgt_column": named[1]}
        return Files(settings, _codes_of_name(src), "by the name of the file")
    if kind == "tsv":
        return Files({kind: src}, _codes_of_name(src), "by the name of the file")
    names = _columns(kind, src)
    if all(asked) and {*asked} <= {*names}:
        return Files({kind: src}, asked, "a column of the file")
    if len(both := [name for name in names if _is_code(name)]) == 2:
        return Files({kind: src}, (both[0], both[1]), "a column of the file")
    src_column, tgt_column = _two_of(src, "columns", names, "--src-column, --tgt-column")
    settings = {kind: src, "src_column": src_column, "tgt_column": tgt_column}
    return Files(settings, _codes_of_name(src), "by the name of the file")


def kind_of(path: str) -> str | None:
    """Return the kind of source that a file of pairs is by its name, or None."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None


def codes_of_names(src: str, tgt: str) -> MaybeCodes:
    """Return the languages of two files by what differs in their paths: train.en and train.de, en/text and de/text."""
    for separators in r"[/.]+", r"[/._]+", r"[/._-]+":
        parts = [[part for part in re.split(separators, path) if part] for path in (src, tgt)]
        if len(parts[0]) == len(parts[1]):
            differing = [both for both in zip(*parts, strict=True) if both[0] != both[1]]
            for one, other in reversed(differing):
                if _is_code(one) and _is_code(other):
                    return _written(one), _written(other)
    return None, None


def _codes_of_name(path: str) -> MaybeCodes:
    """Return the languages of a file of pairs by its name: corpus.en-de.tsv."""
    for part in re.split(r"[/.]+", path)[::-1]:
        found = _TWO_CODES.fullmatch(part) or re.search(rf"(?:^|_){_TWO_CODES.pattern}$", part, re.IGNORECASE)
        if found and _is_code(found[1]) and _is_code(found[2]):
            return _written(found[1]), _written(found[2])
    return None, None


def _is_code(text: str) -> bool:
    return _CODE.fullmatch(text) is not None and text.lower() not in _NO_CODES


def _written(code: str) -> str:
    return code.lower() if code.isupper() else code


def _two_of(path: str, what: str, names: list[str], options: str) -> tuple[str, str]:
    if len(names) != 2:
        found = ", ".join(names[:20]) or "none"
        raise InputError(f"{path}: has the {what} {found}; say with {options} which are the source and the target")
    return names[0], names[1]


def _columns(kind: str, path: str) -> list[str]:
    """Return the names of the columns that hold text in the first row, or of those inside "translation"."""
    row = _first_row(kind, path)
    if isinstance(row.get("translation"), dict):
        row = row["translation"]
    return [str(name) for name, value in row.items() if isinstance(value, str)]


def _first_row(kind: str, path: str) -> dict[str, Any]:
    if kind == "parquet":
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(path) as file:
                rows = next(iter(file.iter_batches(1)), None)
                return {} if rows is None else dict(rows.to_pylist()[0])
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: cannot be read as Parquet ({reason}); check the path and the file") from None
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not JSON ({error}); mend the line") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: one JSON object a line is needed, found {line[:40]!r}")
            return row
    raise InputError(f"{path}: empty, no sentence pairs; check the file")


_TMX_LANGUAGE = re.compile(r"""<tuv\b[^>]*?\b(?:xml:)?lang\s*=\s*["']([^"']+)["']""")
_TMX_SOURCE = re.compile(r"""<header\b[^>]*?\bsrclang\s*=\s*["']([^"']+)["']""")


def _tmx_codes(path: str) -> list[str]:
    """Return the languages of a translation memory's first units, the one that its header calls the source's first."""
    try:
        with open_binary(path) as file:
            start = file.read(1 << 20).decode("utf-8", "ignore")
    except READ_ERRORS as error:
        raise read_error(path, error, 0) from None
    codes = list(Counter(_TMX_LANGUAGE.findall(start)))
    source = _TMX_SOURCE.search(start)
    return sorted(codes, key=lambda code: source is None or code.lower() != source[1].lower())
