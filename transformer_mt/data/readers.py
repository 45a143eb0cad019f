"""Where sentence pairs come from: the kinds of sources that a configuration names, each read in order, pair by pair.

Nothing is read as a whole, so that a source may be larger than the memory. In files of lines, the number of a pair is
that of its line. A pair's sides hold no line end: text of formats that allow some has a space for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from transformer_mt.config.sections import SourceConfig
from transformer_mt.data.cleaning import SentencePair
from transformer_mt.errors import InputError
from transformer_mt.system.compression import COMPRESSED, READ_ERRORS, open_binary
from transformer_mt.system.lines import LONGEST_LINE, TOO_LONG, read_error, read_line_pairs, read_lines

_NESTED = "translation"  # the column that holds one for each language, in data sets of the Hugging Face hub
_BATCH_ROWS = 1024
_BLOCK_BYTES = 1 << 16


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
        yield SentencePair(_one_line(src), _one_line(tgt))


def source_files(source: SourceConfig, src_lang: str, tgt_lang: str) -> list[str]:
    """The files of a source, in a fixed order.

    Raises:
        InputError: as `read_pairs` does where a prefix leads to no files.
    """
    path = str(getattr(source, source.kind))
    match source.kind:
        case "src":
            return [path, str(source.tgt)]
        case "moses":
            return [_moses_file(path, src_lang), _moses_file(path, tgt_lang)]
        case "tsv" | "jsonl" | "parquet" | "tmx":
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
            yield from _read_tsv(path, int(source.src_column or 1), int(source.tgt_column or 2))
        case "jsonl":
            yield from _read_jsonl(path, _columns(source, src_lang, tgt_lang))
        case "parquet":
            yield from _read_parquet(path, _columns(source, src_lang, tgt_lang))
        case "tmx":
            yield from _read_tmx(path, src_lang, tgt_lang)
        case "hub":
            yield from _read_dataset(source, _columns(source, src_lang, tgt_lang), revision)
        case "builtin":
            from transformer_mt.toy_corpus import grammar

            assert source.split is not None and source.num_pairs is not None
            yield from grammar.generate(source.split, source.num_pairs, source.seed)  # type: ignore[arg-type]
        case kind:
            raise AssertionError(f"{source}: of {kind}, the other side is made before pairs are read")


def _one_line(text: str) -> str:
    if len(text) > LONGEST_LINE:  # of formats without lines
        return TOO_LONG
    if "\n" in text or "\r" in text:
        return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
    return text


def _moses_file(prefix: str, lang: str) -> str:
    names = [f"{prefix}.{lang}{suffix}" for suffix in ("", *COMPRESSED)]
    found = [name for name in names if Path(name).exists()]
    if not found:
        raise InputError(f"moses {prefix}: none of {', '.join(names)} is there; check the prefix and the languages")
    if len(found) > 1:
        raise InputError(f"moses {prefix}: {' and '.join(found)} are there; remove one, or name it with src and tgt")
    return found[0]


def _read_tsv(path: str, src_column: int, tgt_column: int) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path, TOO_LONG), 1):
        if line == TOO_LONG:
            yield TOO_LONG, TOO_LONG
            continue
        fields = line.split("\t")
        if max(src_column, tgt_column) > len(fields):
            raise InputError(
                f"{path}, line {number}: no column {max(src_column, tgt_column)} (columns found, separated by tabs: "
                f"{len(fields)}); mend the line, or name the right ones with src_column and tgt_column"
            )
        yield fields[src_column - 1], fields[tgt_column - 1]


# ---------------------------------------------------------------- columns with names


def _columns(source: SourceConfig, src_lang: str, tgt_lang: str) -> tuple[str, str]:
    src, tgt = source.src_column, source.tgt_column
    return str(src_lang if src is None else src), str(tgt_lang if tgt is None else tgt)


def _sides(row: object, columns: tuple[str, str], place: str) -> tuple[str, str]:
    """The text of two columns of a row, or of the columns inside its column "translation"; no value is no text."""
    if isinstance(row, dict) and columns[0] not in row and _NESTED in row:
        row = dict.fromkeys(columns) if row[_NESTED] is None else row[_NESTED]
    if not isinstance(row, dict):
        raise InputError(f"{place}: columns with names are needed, found {type(row).__name__}")
    values = []
    for column in columns:
        if column not in row:
            names = " ".join(", ".join(map(str, row)).split())
            raise InputError(
                f"{place}: no column {column!r}; it has {names}; name the right ones with src_column and tgt_column"
            )
        value = "" if row[column] is None else row[column]
        if not isinstance(value, str):
            raise InputError(f"{place}: column {column!r} should be text, found {type(value).__name__}")
        values.append(value)
    return values[0], values[1]


def _read_jsonl(path: str, columns: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """One JSON object a line. A blank line is a pair of two empty sides, so that a pair's number stays its line's."""
    for number, line in enumerate(read_lines(path, TOO_LONG), 1):
        if line == TOO_LONG or not line.strip():
            yield (line, line) if line == TOO_LONG else ("", "")
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: not JSON ({error.msg} at character {error.pos + 1}); mend the line") from None
        except (RecursionError, ValueError) as error:  # lists in lists in lists …, numbers of thousands of digits
            raise InputError(f"{place}: unusable JSON ({error}); mend the line") from None
        src, tgt = _sides(row, columns, place)
        try:
            (src + tgt).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise InputError(f"{place}: half a character ({half!a}, a lone surrogate); mend the line") from None
        yield src, tgt


def _read_parquet(path: str, columns: tuple[str, str]) -> Iterator[tuple[str, str]]:
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
            inner = {name: [field.name for field in kind] for name, kind in kinds.items() if pa.types.is_struct(kind)}
            _sides({name: dict.fromkeys(inner[name]) if name in inner else "" for name in kinds}, columns, path)
            prefix = f"{_NESTED}." if columns[0] not in kinds else ""
            for batch in file.iter_batches(_BATCH_ROWS, columns=[prefix + column for column in columns]):
                for row in batch.to_pylist():
                    number += 1
                    yield _sides(row, columns, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise read_error(path, error, number) from None
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: damaged Parquet file after line {number}, or none at all ({reason}); copy or download it again"
        ) from None


def _read_dataset(source: SourceConfig, columns: tuple[str, str], revision: str | None) -> Iterator[tuple[str, str]]:
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
            rows = datasets.load_dataset(
                source.hub, source.subset, split=source.split, streaming=source.streaming, revision=revision
            )
        for number, row in enumerate(rows):
            yield _sides(row, columns, f"{name}, row {number}")
    except InputError:
        raise
    except Exception as error:  # whatever its many formats and the network may raise
        reason = " ".join(str(error).split())
        where = "cannot be loaded" if number < 0 else f"cannot be read after row {number}"
        raise InputError(f"{name}, split {source.split}: {where} ({reason})") from None


# ---------------------------------------------------------------- translation memories


_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_CODES = {"bpt", "ept", "it", "ph", "sub", "ut"}  # formatting of another program, and footnotes in it


def _read_tmx(path: str, src_lang: str, tgt_lang: str) -> Iterator[tuple[str, str]]:
    """The units of a TMX file. One without a text in both languages is a pair with an empty side.

    Entities are expanded by the parser, which has a limit for that, and nothing outside of the file is read.
    """
    units = _TmxUnits(src_lang, tgt_lang)
    parser = ElementTree.XMLParser(target=units)
    try:
        with open_binary(path) as file:
            while block := file.read(_BLOCK_BYTES):
                parser.feed(block)
                yield from units.take()
            parser.close()
            yield from units.take()
    except READ_ERRORS as error:
        raise read_error(path, error, units.num_found) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two are about encodings
        raise InputError(f"{path}: damaged XML ({error}); mend the file, or download it again") from None


class _TmxUnits:
    """Hears of elements from the parser and keeps the two texts of every unit, instead of a tree."""

    def __init__(self, src_lang: str, tgt_lang: str) -> None:
        self.num_found = 0
        self._langs = (_normalized(src_lang), _normalized(tgt_lang))
        self._pairs: list[tuple[str, str]] = []
        self._unit: dict[str, str] = {}  # text by language
        self._lang = ""
        self._text: list[str] = []
        self._length = 0  # of the text
        self._in_text = False
        self._num_codes = 0  # that are open

    def take(self) -> list[tuple[str, str]]:
        """The pairs that are complete and were not taken before."""
        taken, self._pairs = self._pairs, []
        return taken

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        match _local(tag):
            case "tu":
                self._unit = {}
            case "tuv":
                self._lang = _normalized(attributes.get(_XML_LANG) or attributes.get("lang", ""))
            case "seg":
                self._text, self._length, self._in_text = [], 0, True
            case name if name in _CODES:
                self._num_codes += 1

    def data(self, text: str) -> None:
        if self._in_text and self._num_codes == 0 and self._length <= LONGEST_LINE:  # more is refused in any case
            self._text.append(text)
            self._length += len(text)

    def end(self, tag: str) -> None:
        match _local(tag):
            case "tu":
                src, tgt = (_text_in(self._unit, lang) for lang in self._langs)
                self._pairs.append((src, tgt))
                self.num_found += 1
            case "seg":
                self._unit.setdefault(self._lang, "".join(self._text))  # of several variants, the first
                self._in_text = False
            case name if name in _CODES:
                self._num_codes -= 1


def _local(tag: str) -> str:
    """An element's name without its namespace."""
    return tag.rpartition("}")[2]


def _normalized(lang: str) -> str:
    return lang.lower().replace("_", "-")


def _text_in(unit: dict[str, str], lang: str) -> str:
    """What a unit says in a language, or else in a variety of it: en-US for en."""
    return unit.get(lang) or next((text for code, text in unit.items() if code.startswith(f"{lang}-")), "")
