"""Pictures as inline SVG: histograms over a linear or a logarithmic axis, with lines at limits, and shares of a whole.

Colours come from the style sheet of the page, by class: `src`, `tgt`, `both`, `limit`, `axis`, `grid`, `c0` and so on.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 22, 34  # around the plot, for ticks and labels
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM


class Series(NamedTuple):
    """One histogram: the share of the whole in each bin, with words for who points at it."""

    css_class: str
    shares: Sequence[float]
    titles: Sequence[str]


class Mark(NamedTuple):
    """A vertical line at a place of the axis (0 to 1), dashed where nothing happens there."""

    place: float
    label: str
    is_dashed: bool


def histogram(series: Sequence[Series], ticks: Mapping[float, str], marks: Sequence[Mark], axis: str) -> str:
    """Bars of equal width, one transparent colour a series; ``ticks`` are labels by their place (0 to 1)."""
    top = nice_ceiling(max((share for one in series for share in one.shares), default=0) or 1)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(axis)}">']
    for step in range(5):
        y = _y(step / 4)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="axis" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * step / 4:.3g} %</text>'
        )
    for one in series:
        parts.append(_bars(one, top))
    for place, label in ticks.items():
        parts.append(
            f'<text class="axis" x="{_x(place):.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">'
            f"{html.escape(label)}</text>"
        )
    parts.append(
        f'<text class="axis" x="{_x(0.5):.1f}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(axis)}</text>'
    )
    for mark in marks:
        parts.append(_line(mark))
    parts.append("</svg>")
    return "".join(parts)


def _bars(series: Series, top: float) -> str:
    width = _PLOT_WIDTH / max(1, len(series.shares))
    bars = []
    for number, (share, title) in enumerate(zip(series.shares, series.titles, strict=True)):
        if share > 0:
            height = max(0.6, _PLOT_HEIGHT * share / top)  # one in a million is seen, too
            bars.append(
                f'<rect x="{_LEFT + number * width:.2f}" y="{_HEIGHT - _BOTTOM - height:.2f}" width="{width:.2f}" '
                f'height="{height:.2f}"><title>{html.escape(title)}</title></rect>'
            )
    return f'<g class="bars {series.css_class}">{"".join(bars)}</g>'


def _line(mark: Mark) -> str:
    x, anchor = _x(mark.place), "end" if mark.place > 0.5 else "start"
    return (
        f'<line class="limit{" dashed" if mark.is_dashed else ""}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" '
        f'y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="limit" x="{x + (-4 if anchor == "end" else 4):.1f}" y="{_TOP - 8}" text-anchor="{anchor}">'
        f"{html.escape(mark.label)}</text>"
    )


def _x(place: float) -> float:
    return _LEFT + place * _PLOT_WIDTH


def _y(height: float) -> float:
    return _HEIGHT - _BOTTOM - height * _PLOT_HEIGHT


def nice_ceiling(value: float) -> float:
    """A number not much above, a quarter of which is round."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10, 12) if step * unit >= value)


def stacked_bar(shares: Mapping[str, float]) -> str:
    """Shares of a whole in one bar; the legend is up to the page."""
    x, parts = 0.0, []
    for number, (name, share) in enumerate(shares.items()):
        parts.append(
            f'<rect class="c{number}" x="{x:.2f}" y="0" width="{share:.2f}" height="6">'
            f"<title>{html.escape(name)}: {share:.2f} %</title></rect>"
        )
        x += share
    return f'<svg class="stack" viewBox="0 0 100 6" preserveAspectRatio="none" role="img">{"".join(parts)}</svg>'
