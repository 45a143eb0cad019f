"""What the data commands share: names of sources, a place for large files, and tables of text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer_mt.config.data_sections import DataConfig, SourceConfig
from transformer_mt.data.pairs import NamedSource
from transformer_mt.system.console import aligned
from transformer_mt.system.directories import scratch_directory
from transformer_mt.system.whole_files import write_error

PARTS = ("train", "valid", "test")
MAX_EXAMPLES = 5  # of a finding
MAX_SHOWN_CHARS = 60  # of a text in it

# From this share of a source on, damage is learned, and what leaks decides scores; below, it is worth a look.
RUINOUS_SHARE = 0.01


class Finding(NamedTuple):
    """Something about a text that should be known before training."""

    text: str
    ruins: bool  # a model, or its scores; else it is worth a look


def named_sources(data: DataConfig, part: str) -> list[NamedSource]:
    """The sources of "train", "valid" or "test": "train.news" by its name, or "train.0" by its number there."""
    sources: tuple[SourceConfig, ...] = getattr(data, part)
    return [
        NamedSource(f"{part}.{number if source.name is None else source.name}", source, data.languages(source))
        for number, source in enumerate(sources)
    ]


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
            directory = cleanup.enter_context(scratch_directory(cache / "data"))
        except OSError as error:
            raise write_error(cache, error) from error
        yield directory


def share(count: int, total: int) -> str:
    """ "12 (0.4 %)"; a count that is not 0 does not look like 0."""
    return f"{count:,} ({percent(count, total)})" if count and total else f"{count:,}"


def percent(count: float, total: float = 1) -> str:
    """ "0.40 %" or "12.3 %"; what is not 0 does not look like 0."""
    if not (count and total):
        return "0 %"
    percent = 100 * count / total
    return "< 0.01 %" if percent < 0.005 else f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1) -> str:
    """Aligned columns: the first ones, which hold names, to the left, numbers to the right."""
    return "\n".join(aligned([header, *rows], num_names))
