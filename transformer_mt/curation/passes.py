"""What the data commands share: the sources of a configuration read in chunks, places in them, and tables of text.

A corpus may be larger than memory: processes on all cores work on chunks of it, a few at a time, and what grows with
it goes to files.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from transformer_mt.cleaning import SentencePair
from transformer_mt.config import DataConfig, SourceConfig
from transformer_mt.errors import InputError
from transformer_mt.sources import read_pairs
from transformer_mt.textio import write_error

PARTS = ("train", "valid", "test")

# Pairs that a process works on at once: fewer where they are long.
_CHUNK_PAIRS, _CHUNK_CHARACTERS = 8000, 1 << 22


class NamedSource(NamedTuple):
    """A source as reports call it: "train.news" by its name, or "train.0" by its number in the configuration."""

    label: str
    source: SourceConfig
    languages: tuple[str, str]


def named_sources(data: DataConfig, part: str) -> list[NamedSource]:
    """The sources of "train", "valid" or "test"."""
    sources: tuple[SourceConfig, ...] = getattr(data, part)
    return [
        NamedSource(f"{part}.{number if source.name is None else source.name}", source, data.languages(source))
        for number, source in enumerate(sources)
    ]


class Chunk(NamedTuple):
    """Pairs of one source that follow each other."""

    source: int  # its number among those that are read
    first: int  # the place of the first pair among those of all sources
    src: list[str]
    tgt: list[str]

    @property
    def end(self) -> int:
        return self.first + len(self.src)

    def pairs(self) -> Iterator[SentencePair]:
        return map(SentencePair, self.src, self.tgt)


def chunks(
    sources: Sequence[NamedSource], doing: str, counts: list[int], refusals: list[InputError] | None = None
) -> Iterator[Chunk]:
    """All pairs of some sources, in order.

    ``counts`` gets the number of pairs of each source. ``refusals`` gets the reason why a source cannot be read (any
    further), and the next one follows.

    Raises:
        InputError: a source that cannot be read, without ``refusals``.
    """
    first = 0
    for number, named in enumerate(sources):
        begin = first
        try:
            with tqdm(desc=f"{doing} {named.label}", unit=" pairs", unit_scale=True, disable=None, leave=False) as bar:
                for pairs in _cut(read_pairs(named.source, *named.languages)):
                    chunk = Chunk(number, first, [src for src, _ in pairs], [tgt for _, tgt in pairs])
                    yield chunk
                    bar.update(len(pairs))
                    first = chunk.end
        except InputError as error:
            if refusals is None:
                raise
            refusals.append(error)
        counts.append(first - begin)


def _cut(pairs: Iterator[SentencePair]) -> Iterator[list[SentencePair]]:
    """In chunks; what stands before damage is one too."""
    chunk: list[SentencePair] = []
    num_characters = 0
    try:
        for pair in pairs:
            chunk.append(pair)
            num_characters += len(pair.src) + len(pair.tgt)
            if len(chunk) == _CHUNK_PAIRS or num_characters >= _CHUNK_CHARACTERS:
                yield chunk
                chunk, num_characters = [], 0
    except InputError:
        if chunk:
            yield chunk
        raise
    if chunk:
        yield chunk


class Places:
    """Where the pairs of some sources are, by their places among all of them."""

    def __init__(self, sources: Sequence[NamedSource], counts: Sequence[int]) -> None:
        self._ranges = list(zip(sources, itertools.accumulate(counts), counts, strict=True))

    def describe(self, place: int) -> str:
        named, end, count = next(one for one in self._ranges if place < one[1])
        return f"{named.label}, line {place - (end - count) + 1:,}"


@contextlib.contextmanager
def workspace(data: DataConfig) -> Iterator[Path]:
    """A directory for files that grow with a corpus, in the cache; it is gone when the block ends, however it does.

    Raises:
        RunError: the cache cannot be written.
    """
    cache = Path(data.cache_dir).expanduser()
    with contextlib.ExitStack() as cleanup:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            place = cleanup.enter_context(tempfile.TemporaryDirectory(prefix=".data.", dir=cache))
        except OSError as error:
            raise write_error(cache, error) from error
        yield Path(place)


def share(count: int, total: int) -> str:
    """ "12 (0.4 %)"; a count that is not 0 does not look like 0."""
    if count == 0 or total == 0:
        return f"{count:,}"
    percent = 100 * count / total
    return f"{count:,} ({'< 0.01' if percent < 0.005 else f'{percent:.2f}' if percent < 1 else f'{percent:.1f}'} %)"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """Aligned columns: the first ones, which hold names, to the left, numbers to the right."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < num_names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
