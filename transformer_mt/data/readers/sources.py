"""Where sentence pairs come from: the kinds of sources that a configuration names, each read in order, pair by pair.

Nothing is read as a whole, so that a source may be larger than the memory. In files of lines, the number of a pair is
that of its line. A pair's sides hold no line end: text of formats that allow some has a space for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.clean_report import SentencePair
from transformer_mt.data.readers.delimited import read_csv, read_tsv
from transformer_mt.data.readers.json_rows import read_json
from transformer_mt.data.readers.plain_text import moses_file
from transformer_mt.data.readers.po import read_po
from transformer_mt.data.readers.tables import columns_of, read_dataset, read_parquet
from transformer_mt.data.readers.tmx import read_tmx
from transformer_mt.data.readers.xliff import read_xliff
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG, read_line_pairs


def read_pairs(
    source: SourceConfig, src_lang: str, tgt_lang: str, revision: str | None = None
) -> Iterator[SentencePair]:
    """Yield the raw pairs of one source, in order.

    Args:
        revision: of a data set on the hub, the commit to read; without it, the newest.

    Raises:
        InputError: a file or data set that cannot be read, is damaged, or has no such columns; sides of different
            length. The message names the line where there is one.
    """
    for src, tgt in _read(source, src_lang, tgt_lang, revision):
        yield SentencePair(one_line(src), one_line(tgt))


def source_files(source: SourceConfig, src_lang: str, tgt_lang: str) -> list[str]:
    """Return the paths of a source's files, in a fixed order.

    Raises:
        InputError: as `read_pairs` does where a prefix leads to no files.
    """
    path = str(getattr(source, source.kind))
    match source.kind:
        case "src":
            return [path, str(source.tgt)]
        case "moses":
            return [moses_file(path, src_lang), moses_file(path, tgt_lang)]
        case "tsv" | "csv" | "jsonl" | "parquet" | "tmx" | "xliff" | "po":
            return [path]
        case "hub" if Path(path).is_dir():
            return [str(file) for file in sorted(Path(path).rglob("*")) if file.is_file()]
        case _:
            return []


def _read(source: SourceConfig, src_lang: str, tgt_lang: str, revision: str | None) -> Iterator[tuple[str, str]]:
    path = str(getattr(source, source.kind))
    match source.kind:
        case "src":
            yield from read_line_pairs(path, str(source.tgt), TOO_LONG)
        case "moses":
            src, tgt = source_files(source, src_lang, tgt_lang)
            yield from read_line_pairs(src, tgt, TOO_LONG)
        case "tsv":
            yield from read_tsv(path, source, (src_lang, tgt_lang))
        case "csv":
            yield from read_csv(path, source, (src_lang, tgt_lang))
        case "jsonl":
            yield from read_json(path, columns_of(source, src_lang, tgt_lang))
        case "parquet":
            yield from read_parquet(path, columns_of(source, src_lang, tgt_lang))
        case "tmx":
            yield from read_tmx(path, src_lang, tgt_lang)
        case "xliff":
            yield from read_xliff(path, src_lang, tgt_lang)
        case "po":
            yield from read_po(path, src_lang, tgt_lang)
        case "hub":
            yield from read_dataset(source, columns_of(source, src_lang, tgt_lang), revision)
        case "builtin":
            from transformer_mt.toy_corpus import grammar

            assert source.split is not None and source.num_pairs is not None
            yield from grammar.generate(source.split, source.num_pairs, source.seed)  # type: ignore[arg-type]
        case kind:
            raise AssertionError(f"{source}: of {kind}, the other side is made before pairs are read")


def one_line(text: str) -> str:
    """Return a text with a space for each line end in it, or `TOO_LONG` where it is longer than a line may be."""
    if len(text) > LONGEST_LINE:  # of formats without lines
        return TOO_LONG
    if "\n" in text or "\r" in text:
        return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    return text
