"""Rows with columns: Parquet, data sets of the Hugging Face hub; and how columns are found and read, of JSON too."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.data.readers.languages import nearest, no_column
from transformer_mt.errors import InputError
from transformer_mt.system.lines import read_error

_NESTED = "translation"  # the column that holds one for each language, in data sets of the Hugging Face hub


_BATCH_ROWS = 1024


class Columns(NamedTuple):
    """The names of two columns, as somebody has given them or, where nobody has, the codes of two languages."""

    src: str
    tgt: str
    are_languages: tuple[bool, bool]

    def among(self, names: Collection[str]) -> list[str]:
        """Return them as they stand in a row: a column of a language by its nearest code or its name."""
        found = []
        for column, is_language in zip(self[:2], self.are_languages, strict=True):
            near = nearest(column, map(str, names)) if is_language and column not in names else []
            found.append(near[0] if len(near) == 1 else column)
        return found


def columns_of(source: SourceConfig, src_lang: str, tgt_lang: str) -> Columns:
    """Return a source's two columns, by default its languages."""
    src, tgt = source.src_column, source.tgt_column
    return Columns(
        str(src_lang if src is None else src), str(tgt_lang if tgt is None else tgt), (src is None, tgt is None)
    )


def sides_of(row: object, columns: Columns, origin: str) -> tuple[str, str]:
    """Return the text of two columns of a row, or of the columns inside its column "translation".

    No value is no text. ``origin`` is where the row is from, in words.

    Raises:
        InputError: the row has no such columns, or something else than text in them.
    """
    return texts_of(cells_of(row, columns, origin), columns, origin)


def cells_of(row: object, columns: Columns, origin: str) -> dict[Any, Any]:
    """Return the columns of a row, or those inside its column "translation".

    Raises:
        InputError: it has none.
    """
    if isinstance(row, dict) and _NESTED in row and columns.among(row)[0] not in row:
        row = dict.fromkeys(columns[:2]) if row[_NESTED] is None else row[_NESTED]
    if not isinstance(row, dict):
        raise InputError(
            f"{origin}: columns with names are needed, found {type(row).__name__}; make objects of rows, as of arrays: "
            "jq -c '{en: .[0], de: .[1]}'"
        )
    return row


def texts_of(
    cells: dict[Any, Any], columns: Columns, origin: str, like: dict[Any, Any] | None = None
) -> tuple[str, str]:
    """Return the text of two columns; no value, null or NaN, is no text.

    Args:
        like: the cells of a row with text in both. What only lacks some of its columns, as programs write rows without
            a value, has no text in these; and a whole number is the text of its digits.

    Raises:
        InputError: there are no such columns, or something else than text in them.
    """
    names_of_sides = columns.among(cells)
    values = []
    for column in names_of_sides:
        if column not in cells and not (
            like is not None and cells.keys() <= like.keys() and any(one in cells for one in names_of_sides)
        ):
            names = " ".join(", ".join(map(str, cells)).split())
            missing = no_column(str(column), map(str, cells))
            raise InputError(f"{origin}: {missing}; it has {names}; name the right ones with src_column and tgt_column")
        value = cells.get(column)
        if value is None or value != value:
            value = ""
        elif like is not None and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            shown = " ".join(str(value)[:200].split())[:40]
            raise InputError(f"{origin}: column {column!r} should be text, found {type(value).__name__} ({shown})")
        values.append(value)
    return values[0], values[1]


def read_parquet(path: str, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yield two columns of a Parquet file, in bounded memory."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        # Buffered, a page at a time: without that, whole row groups are read, which may be whole files.
        with (
            open(path, "rb") as raw,
            ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            kinds = {field.name: field.type for field in file.schema_arrow}
            num_called = Counter(file.schema_arrow.names)
            if twice := [name for name in columns.among(kinds) if num_called[name] > 1]:
                raise InputError(
                    f"{path}: {num_called[twice[0]]} columns are called {twice[0]!r}; save it with a name for each"
                )
            inner = {name: [field.name for field in kind] for name, kind in kinds.items() if pa.types.is_struct(kind)}
            sides_of({name: dict.fromkeys(inner[name]) if name in inner else "" for name in kinds}, columns, path)
            names = columns.among(kinds)
            if names[0] not in kinds:
                names = [f"{_NESTED}.{name}" for name in columns.among(inner[_NESTED])]
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                for row in batch.to_pylist():
                    number += 1
                    yield sides_of(row, columns, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise read_error(path, error, number) from None
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged Parquet file after line {number}, or none at all ({reason}); copy or download it again"
        ) from None


def read_dataset(source: SourceConfig, columns: Columns, revision: str | None) -> Iterator[tuple[str, str]]:
    """Yield two columns of a data set of the Hugging Face hub, or of a directory in which one was saved."""
    import datasets  # slow to import, and needed by those who name a data set only

    assert source.hub is not None
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said below
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    is_saved = any((Path(source.hub) / name).exists() for name in ("state.json", "dataset_dict.json"))
    name, number = f"data set {source.hub}", -1
    try:
        if is_saved:
            rows = datasets.load_from_disk(source.hub)
            splits = rows if isinstance(rows, datasets.DatasetDict) else {str(rows.split or source.split): rows}
            if source.split not in splits:
                raise InputError(f"{name}: no split {source.split!r}; it has {', '.join(splits)}")
            rows = splits[source.split]
        else:
            builder = datasets.load_dataset_builder(source.hub, source.subset, revision=revision)
            if builder.name == "csv":  # of TSV too
                tables = [
                    f"{{{end}: {path}}}" for end in ("csv", "tsv") for path in Path(source.hub).rglob(f"*.{end}*")
                ]
                example = f", as in {min(tables)}" if tables else ""
                raise InputError(
                    f"{name}: its files are tables of text, in which the library for data sets takes words for missing "
                    f"values and quotes for more than they are; name the files with csv or tsv{example}"
                )
            if source.streaming:
                rows = builder.as_streaming_dataset(split=source.split)
            else:
                builder.download_and_prepare()
                rows = builder.as_dataset(split=source.split)
        for number, row in enumerate(rows):
            yield sides_of(row, columns, f"{name}, row {number}")
    except InputError:
        raise
    except Exception as error:  # whatever its many formats and the network may raise
        reason = " ".join(str(error).split())
        problem = "cannot be loaded" if number < 0 else f"cannot be read after row {number}"
        raise InputError(f"{name}, split {source.split}: {problem} ({reason})") from None
