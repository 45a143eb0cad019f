"""Where sentence pairs come from: the kinds of sources that a configuration names, each read in order, pair by pair.

Nothing is read as a whole, so that a source may be larger than the memory. In files of lines, the number of a pair is
that of its line. A pair's sides hold no line end: text of formats that allow some has a space for it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from transformer_mt.config.data_sections import DataConfig, SourceConfig
from transformer_mt.data.readers.delimited import read_csv, read_tsv
from transformer_mt.data.readers.json_rows import read_json
from transformer_mt.data.readers.plain_text import file_pairs, files_of, moses_file, moses_prefixes, refuse_stream
from transformer_mt.data.readers.po import read_po
from transformer_mt.data.readers.published import published_set
from transformer_mt.data.readers.tables import columns_of, read_dataset, read_parquet
from transformer_mt.data.readers.tmx import read_tmx
from transformer_mt.data.readers.xliff import read_xliff
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG, read_error, read_line_pairs, read_lines


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


def check_sources(data: DataConfig) -> None:
    """Look at the beginning of a run's text, and at the whole test text, before hours go by; hub data sets apart.

    Raises:
        InputError: text that a model is to clean first; a file that is missing, cannot be read, or can be read only
            once; a source without a pair.
    """
    if data.clean.min_score is not None:
        raise InputError("data.clean.min_score: is for tmt data clean; remove it here, and train on what that writes")
    for part in ("train", "valid", "test"):
        for source in getattr(data, part):
            languages = data.languages(source)
            for path in source_files(source, *languages):
                try:
                    with open(path, "rb") as file:
                        file.read(1)
                except OSError as error:
                    raise read_error(path, error, 0) from None
            if source.kind == "hub" and not Path(str(source.hub)).is_dir():
                continue
            if source.model is None:
                pairs = read_pairs(source, *languages)
                first: object = next(pairs, None)
                if part == "test":  # else it would be found to be damaged when training is over
                    deque(pairs, maxlen=0)
            else:  # the other side is still to be made
                first = next((line for path in source_files(source, *languages) for line in read_lines(path, "")), None)
            if first is None:
                raise InputError(f"{source}: empty, no sentence pairs; check data.{part}")


def source_files(source: SourceConfig, src_lang: str, tgt_lang: str) -> list[str]:
    """Return the paths of a source's files, in a fixed order.

    Raises:
        InputError: as `read_pairs` does where a pattern or prefix leads to no files.
    """
    if source.kind == "hub" and Path(str(source.hub)).is_dir():
        return [str(file) for file in sorted(Path(str(source.hub)).rglob("*")) if file.is_file()]
    return [file for files in _files(source, src_lang, tgt_lang) for file in files]


def _files(source: SourceConfig, src_lang: str, tgt_lang: str) -> list[tuple[str, ...]]:
    """The files that are read one after the other, two at a time where each has one side."""
    paths = getattr(source, source.kind)
    found: list[tuple[str, ...]] = []
    match source.kind:
        case "src":
            found = [*file_pairs(paths, source.tgt or "", (src_lang, tgt_lang))]
        case "moses":
            prefixes = moses_prefixes(paths, src_lang)
            found = [(moses_file(prefix, src_lang), moses_file(prefix, tgt_lang)) for prefix in prefixes]
        case "tsv" | "csv" | "jsonl" | "parquet" | "tmx" | "xliff" | "po" | "back_translate" | "distill":
            found = [(file,) for file in files_of(paths)]
        case "test_set":
            published = published_set(paths, src_lang, tgt_lang)
            found = [(published.src, published.refs[0])]
    for path in itertools.chain.from_iterable(found):
        refuse_stream(path)
    return found


def _read(source: SourceConfig, src_lang: str, tgt_lang: str, revision: str | None) -> Iterator[tuple[str, str]]:
    match source.kind:
        case "hub":
            yield from read_dataset(source, columns_of(source, src_lang, tgt_lang), revision)
        case "builtin":
            from transformer_mt.toy_corpus import grammar

            assert source.split is not None and source.num_pairs is not None
            yield from grammar.generate(source.split, source.num_pairs, source.seed)  # type: ignore[arg-type]
        case "back_translate" | "distill":
            raise AssertionError(f"{source}: the other side is made before pairs are read")
        case _:
            for files in _files(source, src_lang, tgt_lang):
                yield from _read_files(source, files, src_lang, tgt_lang)


def _read_files(
    source: SourceConfig, files: tuple[str, ...], src_lang: str, tgt_lang: str
) -> Iterator[tuple[str, str]]:
    path = files[0]
    match source.kind:
        case "src" | "moses" | "test_set":
            return read_line_pairs(path, files[1], TOO_LONG)
        case "tsv":
            return read_tsv(path, source, (src_lang, tgt_lang))
        case "csv":
            return read_csv(path, source, (src_lang, tgt_lang))
        case "jsonl":
            return read_json(path, columns_of(source, src_lang, tgt_lang))
        case "parquet":
            return read_parquet(path, columns_of(source, src_lang, tgt_lang))
        case "tmx":
            return read_tmx(path, src_lang, tgt_lang)
        case "xliff":
            return read_xliff(path, src_lang, tgt_lang)
        case _:
            return read_po(path, src_lang, tgt_lang)


def one_line(text: str) -> str:
    """Return a text with a space for each line end in it, or `TOO_LONG` where it is longer than a line may be."""
    if len(text) > LONGEST_LINE:  # of formats without lines
        return TOO_LONG
    if "\n" in text or "\r" in text:
        return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    return text
