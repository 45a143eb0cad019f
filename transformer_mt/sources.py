"""Where sentence pairs come from: the kinds of sources that a configuration names, each read in order, pair by pair.

A pair's sides hold no line end: text of formats that allow some has a space for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from transformer_mt.cleaning import SentencePair
from transformer_mt.config import SourceConfig
from transformer_mt.errors import InputError
from transformer_mt.textio import read_line_pairs


def read_pairs(source: SourceConfig, src_lang: str, tgt_lang: str) -> Iterator[SentencePair]:
    """Yield the raw pairs of one source, in order.

    Raises:
        InputError: a file or data set that cannot be read, or sides of different length.
    """
    if source.src is not None and source.tgt is not None:
        yield from (SentencePair(src, tgt) for src, tgt in read_line_pairs(source.src, source.tgt))
    elif source.hub is not None:
        yield from _read_dataset(source, src_lang, tgt_lang)
    else:
        from transformer_mt import grammar

        assert source.split is not None and source.num_pairs is not None
        for src, tgt in grammar.generate(source.split, source.num_pairs, source.seed):  # type: ignore[arg-type]
            yield SentencePair(src, tgt)


def _read_dataset(source: SourceConfig, src_lang: str, tgt_lang: str) -> Iterator[SentencePair]:
    import datasets  # slow to import, and needed by those who name a data set only

    assert source.hub is not None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    is_saved = any((Path(source.hub) / name).exists() for name in ("state.json", "dataset_dict.json"))
    try:
        if is_saved:
            rows = datasets.load_from_disk(source.hub)
            splits = rows if isinstance(rows, datasets.DatasetDict) else {str(rows.split or source.split): rows}
            if source.split not in splits:
                raise InputError(f"data set {source.hub}: no split {source.split!r}; it has {', '.join(splits)}")
            rows = splits[source.split]
        else:
            rows = datasets.load_dataset(source.hub, source.subset, split=source.split)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"data set {source.hub}, split {source.split}: cannot be loaded ({reason})") from None
    columns = list(rows.column_names)
    src_key, tgt_key = source.src_column or src_lang, source.tgt_column or tgt_lang
    nested = "translation" in columns and src_key not in columns
    for number, row in enumerate(rows):
        fields = row["translation"] if nested else row
        try:
            src, tgt = fields[src_key], fields[tgt_key]
        except KeyError as error:
            raise InputError(
                f"data set {source.hub}, row {number}: no column {error}; it has {', '.join(fields)}; "
                "name the right ones with src_column and tgt_column"
            ) from None
        yield SentencePair("" if src is None else str(src), "" if tgt is None else str(tgt))


def source_files(source: SourceConfig) -> list[str]:
    """The files of a source, in a fixed order."""
    if source.hub is not None and Path(source.hub).is_dir():
        return [str(path) for path in sorted(Path(source.hub).rglob("*")) if path.is_file()]
    return [path for path in (source.src, source.tgt) if path is not None]
