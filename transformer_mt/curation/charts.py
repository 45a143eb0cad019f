"""What the pictures of a page show, as numbers; `templates/charts.html` draws them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.curation.common import share
from transformer_mt.curation.stats import RATIO_BINS, Lengths, PairStats, SideStats

CHAR_RATIO = 3.0  # where data.clean has no max_char_ratio
_MAX_BARS = 60
_MAX_CLASSES = 6  # kinds of characters with a colour of their own
_WIDEST_RATIO = 4  # octaves on either side


class Series(NamedTuple):
    """Bars of one colour: the share of the whole in each bin in percent, with words for who points at it."""

    css_class: str
    shares: Sequence[float]
    titles: Sequence[str]


class Mark(NamedTuple):
    """A vertical line at a place of the axis (0 to 1), dashed where nothing happens there."""

    place: float
    label: str
    is_dashed: bool


class Histogram(NamedTuple):
    axis: str
    series: Sequence[Series]
    ticks: Mapping[float, str]  # labels by their place on the axis (0 to 1)
    marks: Sequence[Mark]

    @property
    def top(self) -> float:
        """Where the axis of shares ends, in percent."""
        return nice_ceiling(max((share for one in self.series for share in one.shares), default=0) or 1)


def nice_ceiling(value: float) -> float:
    """A number not much above, a quarter of which is round."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12) if step * unit >= value)


def word_histogram(stats: PairStats) -> Histogram:
    return _length_histogram(stats.src.words, stats.tgt.words, "words", None)


def character_histogram(stats: PairStats, clean: CleanConfig) -> Histogram:
    """With a mark at max_chars, where some line is longer."""
    src, tgt = stats.src.characters, stats.tgt.characters
    is_reached = clean.max_chars is not None and clean.max_chars < max(src.longest, tgt.longest)
    return _length_histogram(src, tgt, "characters", clean.max_chars if is_reached else None)


def _length_histogram(src: Lengths, tgt: Lengths, unit: str, max_chars: int | None) -> Histogram:
    """Up to the longest line but one in two hundred, or up to a limit beyond; the last bar holds all longer ones."""
    longest = max(src.percentile(99.5), tgt.percentile(99.5), int((max_chars or 0) * 1.1), 1)
    width = _bin_width(longest)
    num_bars = longest // width + 2  # with one for longer lines
    series = []
    for css_class, lengths in (("src", src), ("tgt", tgt)):
        bins: Counter[int] = Counter()
        for length, number in lengths.counts.items():
            bins[min(length // width, num_bars - 1)] += number
        total = max(1, lengths.counts.total())
        shares = [100 * bins[b] / total for b in range(num_bars)]
        titles = [f"{_range_of(b, width, num_bars)} {unit}: {share(bins[b], total)} lines" for b in range(num_bars)]
        series.append(Series(css_class, shares, titles))
    step = max(1, round(num_bars / 6))
    ticks = {b / num_bars: f"{b * width:,}" for b in range(0, num_bars, step)}
    marks = []
    if max_chars is not None:
        marks.append(Mark(min(1.0, max_chars / (width * num_bars)), f"max_chars {max_chars:,}", False))
    return Histogram(unit, series, ticks, marks)


def _bin_width(longest: int) -> int:
    """The least of 1, 2, 5, 10, 20 and so on that needs no more than so many bars."""
    widths: Iterator[int] = (step * 10**power for power in itertools.count() for step in (1, 2, 5))
    return next(width for width in widths if longest // width + 2 <= _MAX_BARS)


def _range_of(number: int, width: int, num_bars: int) -> str:
    first = number * width
    if number == num_bars - 1:
        return f"{first:,} and more"
    return f"{first:,}" if width == 1 else f"{first:,}–{first + width - 1:,}"


def ratio_histogram(stats: PairStats, clean: CleanConfig) -> Histogram:
    """Of characters of the target to those of the source, on an axis of octaves."""
    total = stats.ratios.total()
    bins = range(-_WIDEST_RATIO * RATIO_BINS, _WIDEST_RATIO * RATIO_BINS + 1)
    shares = [100 * stats.ratios[b] / max(1, total) for b in bins]
    titles = [f"about {2 ** (b / RATIO_BINS):.3g} : 1: {share(stats.ratios[b], total)} pairs" for b in bins]

    def place(ratio: float) -> float:
        return (math.log2(ratio) * RATIO_BINS + _WIDEST_RATIO * RATIO_BINS + 0.5) / len(bins)

    octaves = range(-_WIDEST_RATIO, _WIDEST_RATIO + 1)
    ticks = {place(2.0**octave): f"{2**octave}" if octave >= 0 else f"1/{2**-octave}" for octave in octaves}
    limit = CHAR_RATIO if clean.max_char_ratio is None else clean.max_char_ratio
    marks = [
        Mark(place(ratio), label, clean.max_char_ratio is None)
        for ratio, label in ((1 / limit, f"1/{limit:g}"), (limit, f"{limit:g}"))
        if 0 < place(ratio) < 1
    ]
    return Histogram("target characters / source characters", [Series("both", shares, titles)], ticks, marks)


def class_shares(side: SideStats) -> dict[str, float]:
    """The commonest kinds of characters and the rest, in percent."""
    classes = side.classes
    most = [(name, 100 * number / classes.total()) for name, number in classes.most_common(_MAX_CLASSES)]
    shares = {name: percent for name, percent in most if percent >= 0.05}
    if classes.total() and (rest := 100 - sum(shares.values())) >= 0.05:
        shares["the rest"] = rest
    return shares
