"""What somebody's files are: the source that reads them, and the languages that their names or contents tell."""

from __future__ import annotations

import os
from pathlib import Path

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.readers.plain_text import files_of as matching_files
from transformer_mt.data.readers.plain_text import refuse_stream
from transformer_mt.errors import InputError
from transformer_mt.recipes.contents import codes_in, has_bars, is_table
from transformer_mt.recipes.languages import MaybeCodes
from transformer_mt.recipes.names import codes_of_names
from transformer_mt.recipes.sides import Files, MaybeColumns
from transformer_mt.recipes.tables import table_of
from transformer_mt.recipes.unread import refuse_unread
from transformer_mt.system.compression import COMPRESSED

# The kind of source that reads a file of pairs, by the end of its name.
_KINDS = {
    **{".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"},
    **{".parquet": "parquet", ".tmx": "tmx", ".xlf": "xliff", ".xliff": "xliff", ".po": "po"},
    **{".sdlxliff": "xliff", ".mqxliff": "xliff", ".mxliff": "xliff"},
}


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
    kind, files = _kind_of(src) or "tsv", _matching(src)
    first = files[0]
    if kind in ("tsv", "csv") or Path(first).is_dir():
        refuse_unread(first)
    # Tables are called deu.txt, too: Tatoeba's pairs for flash cards are.
    if _kind_of(src) is None and has_bars(first):
        raise InputError(f"{src}: has ||| between its sides; write a tab in its place, and name it .tsv")
    if _kind_of(src) is None and not is_table(first):
        raise InputError(
            f"{src}: has no columns with tabs between them; of one side of the text, name the file of the other side "
            f"as well, of pairs a file of a kind that is read ({', '.join(_KINDS)})"
        )
    if kind in ("tmx", "xliff", "po"):
        codes = codes_in(kind, first)
        both = (asked[0] or codes[0], asked[1] or codes[1]) if len(codes) == 2 else asked
        if len(codes) == 2 and not all(both):
            missing = [side for side, code in zip(("src", "tgt"), both, strict=True) if code is None]
            raise InputError(
                f"{src}: does not say which language it is translated "
                f"{' and '.join({'src': 'from', 'tgt': 'into'}[side] for side in missing)}; say "
                f"{' and '.join(f'--{side}-lang' for side in missing)}"
            )
        if not all(both):
            found = ", ".join(map(str, codes)) or "none"
            raise InputError(f"{src}: has the languages {found}; say with --src-lang and --tgt-lang which to take")
        return Files({kind: src}, both, "as the file has it", is_by_language=True)
    return table_of(kind, src, files, columns, asked)


def _two_files(src: str, tgt: str) -> Files:
    pairs = [path for path in (src, tgt) if _kind_of(path) not in (None, "tsv")]
    if {*map(_kind_of, pairs)} <= {"jsonl", "csv", "parquet"} and len(pairs) == 2:
        raise InputError(
            f"{src} and {tgt}: of tables and JSON, both sides are read from one file; write one file with both, or the "
            "text of each side, one a line (keys and texts: json2po -t SOURCE TARGET both.po, Translate Toolkit)"
        )
    if pairs:
        raise InputError(f"{pairs[0]}: is a file of pairs, with both sides in it; name it without a second file")
    if [*map(os.path.realpath, _matching(src))] == [*map(os.path.realpath, _matching(tgt))]:
        raise InputError(f"{tgt}: is named for both sides; name the file of the other language")
    for path in (src, tgt):
        refuse_unread(_matching(path)[0])
    if tables := [path for path in (src, tgt) if is_table(_matching(path)[0])]:
        raise InputError(
            f"{tables[0]}: has columns, with tabs between them; name a file of pairs without a second one, or write "
            "the text of each side, one a line, what belongs together in lines of the same number (of files that both "
            "begin with a number or a name: join -t $'\\t' <(sort SRC) <(sort TGT) > both.tsv)"
        )
    return Files({"src": src, "tgt": tgt}, codes_of_names(src, tgt), "by the names of the files")


def _matching(path: str) -> list[str]:
    """Return the files that a pattern leads to."""
    return matching_files(SourceConfig(tsv=path).tsv or ())


def _kind_of(path: str) -> str | None:
    """Return the kind of source that a file of pairs is by its name, or None."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None
