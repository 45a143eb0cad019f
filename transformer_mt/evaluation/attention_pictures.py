"""Pictures of what a model looks at: lines between words, as in the paper's Figures 3 to 5, or tables.

Shapes: Y layers and H heads that are shown, L positions of queries, M positions of keys: words or pieces.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from transformer_mt.decoding.attention_maps import AttentionMap, AttentionMaps
from transformer_mt.errors import InputError
from transformer_mt.evaluation.figures import as_data, line_styles, save_picture
from transformer_mt.evaluation.fonts import font_families
from transformer_mt.system.console import Tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

# What a use is called, and what its queries and keys are.
_NAMES: dict[str, tuple[str, str, str]] = {
    "encoder": ("Encoder self-attention", "source", "source"),
    "decoder": ("Masked decoder self-attention", "translation", "translation"),
    "cross": ("Attention over the source", "translation", "source"),
}
USES, STYLES = tuple(_NAMES), ("table", "lines")

_COLOUR_MAP = "Blues"
_GREY = "0.45"
_POINTS = 72  # in an inch
_MOST_INCHES = 40  # of a picture's side; what has more words has smaller ones
_MOST_CELLS = 4000  # of tables that are drawn as shapes; more are an image within an svg or pdf
_FAINTEST = 0.02  # of the weights that are drawn as lines; below it they are not seen


@dataclass(frozen=True)
class Selection:
    """The part of a model's attention in one sentence pair that is shown."""

    use: str
    queries: list[str]
    keys: list[str]
    layers: list[str]  # their names
    heads: list[str]
    rows: list[int]  # the queries whose weights are shown
    weights_YHLM: Tensor

    def as_dict(self) -> dict[str, Any]:
        """Return it for other programs: the weights by layer, head, query and key, to six decimals."""
        weights = [
            [[[round(weight, 6) for weight in head[row]] for row in self.rows] for head in layer]
            for layer in self.weights_YHLM.tolist()
        ]
        names = {"layers": self.layers, "heads": self.heads, "keys": self.keys}
        return {"use": self.use, **names, "queries": [self.queries[row] for row in self.rows], "weights": weights}


def select(
    maps: AttentionMaps,
    use: str,
    layer: str = "last",
    head: str = "mean",
    pieces: bool = False,
    word: str | None = None,
) -> Selection:
    """Return what is asked for.

    Args:
        layer, head: one by its number from 1, the ``last``, ``all`` of them or their ``mean``.
        pieces: by the model's pieces, not by words.
        word: only what this query looks at, wherever it stands.

    Raises:
        InputError: there is no such attention, layer, head or word.
    """
    found: AttentionMap | None = getattr(maps, use)
    if found is None:
        has = ", ".join(name for name, one in maps._asdict().items() if one is not None) or "none"
        raise InputError(f"--use {use}: the model has no such attention; it has {has}")
    queries, keys = (
        side.pieces if pieces else [one.text for one in side.words] for side in (found.queries, found.keys)
    )
    rows = [row for row, query in enumerate(queries) if word in (None, query)]
    if not rows:
        raise InputError(f"--word {word}: is not in {' '.join(queries)}; give one of these")
    weights_YHLM, layers = _part("layer", layer, found.weights_YHLM if pieces else found.of_words(), 0)
    weights_YHLM, heads = _part("head", head, weights_YHLM, 1)
    return Selection(use, queries, keys, layers, heads, rows, weights_YHLM)


def _part(what: str, wanted: str, weights_YHLM: Tensor, dim: int) -> tuple[Tensor, list[str]]:
    """Return the layers or heads that are wanted, and their names."""
    count = weights_YHLM.shape[dim]
    if wanted == "mean" and count > 1:
        return weights_YHLM.mean(dim, keepdim=True), [f"mean of {count} {what}s"]
    if wanted == "all":
        return weights_YHLM, [f"{what} {number}" for number in range(1, count + 1)]
    number = count if wanted in ("last", "mean") else int(wanted) if wanted.isdecimal() else 0
    if not 1 <= number <= count:
        raise InputError(f"--{what} {wanted}: the model has {count} {what}s; give 1 to {count}, all, mean or last")
    return weights_YHLM.narrow(dim, number - 1, 1), [f"{what} {number}"]


def draw_attention(shown: Selection, style: str, output: Path, tell: Tell) -> None:
    """Draw it: as tables, one for each layer and head, or as lines, their opacity the weight, each head in its colour.

    Raises:
        RunError: the picture cannot be written.
    """
    with _fonts_for(shown, tell):
        save_picture(_tables(shown) if style == "table" else _lines(shown), output)


def attention_as_data(shown: Selection, tell: Tell) -> str:
    """Return it as tables, in an address that holds the picture (`as_data`)."""
    with _fonts_for(shown, tell):
        return as_data(_tables(shown))


def _fonts_for(shown: Selection, tell: Tell) -> AbstractContextManager[None]:
    import matplotlib

    return matplotlib.rc_context({"font.family": font_families([*shown.queries, *shown.keys], tell)})


def _tables(shown: Selection) -> Figure:
    """Draw a grid of tables: a row for each layer, a column for each head."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    weights_YHLM = shown.weights_YHLM[:, :, shown.rows]
    num_layers, num_heads, num_rows, num_columns = weights_YHLM.shape
    is_grid = num_layers * num_heads > 1
    cell = min(0.14 if is_grid else 0.27, _MOST_INCHES / max(num_layers * num_rows, num_heads * num_columns))
    width, height, gap = cell * num_columns, cell * num_rows, 0.15
    # Tables have their places in inches; labels stand outside of the figure, and saving takes in all that is drawn.
    figure = Figure(figsize=(num_heads * (width + gap) - gap, num_layers * (height + gap) - gap))
    size = min(9.0, 0.75 * cell * _POINTS)
    norm = Normalize(0, float(weights_YHLM.max()))
    for layer, head in itertools.product(range(num_layers), range(num_heads)):
        axes = _axes(figure, head * (width + gap), (num_layers - 1 - layer) * (height + gap), width, height)
        _table(axes, weights_YHLM[layer, head], shown, norm)
        queries = [shown.queries[row] for row in shown.rows]
        _name(
            axes.xaxis, shown.keys if layer == 0 else [], size, rotation=0 if _inches(shown.keys, size) < cell else 90
        )
        _name(axes.yaxis, queries if head == 0 else [], size)
        if is_grid and layer == 0:
            axes.set_title(shown.heads[head], size=9)
        if is_grid and head == 0:
            axes.set_ylabel(shown.layers[layer], size=9, rotation=0, ha="right", va="center")
    bar = _axes(figure, figure.get_figwidth() + 0.12, 0, 0.1, min(1.6, figure.get_figheight()))
    figure.colorbar(ScalarMappable(norm, _COLOUR_MAP), bar).ax.tick_params(labelsize=7, length=2)
    _caption(figure, shown, 0.1)
    return figure


def _table(axes: Axes, weights_LM: Tensor, shown: Selection, norm: Normalize) -> None:
    """Draw one table; what may not be looked at, the future, is grey."""
    import numpy as np

    values_LM = weights_LM.numpy().astype(np.float64)
    if shown.use == "decoder":
        values_LM[np.arange(len(shown.keys)) > np.array(shown.rows)[:, None]] = np.nan
    is_large = values_LM.size * len(shown.layers) * len(shown.heads) > _MOST_CELLS
    axes.pcolormesh(values_LM, cmap=_COLOUR_MAP, norm=norm, edgecolors="white", linewidth=0.3, rasterized=is_large)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.set_facecolor("0.92")
    axes.spines[:].set_visible(False)


def _name(axis: Axis, words: Sequence[str], size: float, **style: Any) -> None:
    """Write words along an axis of a table, each at its cell."""
    axis.set_ticks([number + 0.5 for number in range(len(words))], words, size=size, parse_math=False, **style)
    axis.set_tick_params(length=0)


def _lines(shown: Selection) -> Figure:
    """Draw queries on the left and keys on the right, a panel for each layer."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    num_words = max(len(shown.queries), len(shown.keys))
    row = min(0.25, _MOST_INCHES / num_words)
    size = min(10.0, 0.7 * row * _POINTS)
    left, right = (
        _inches([*words, heading], size)
        for words, heading in zip((shown.queries, shown.keys), _NAMES[shown.use][1:], strict=True)
    )
    height, gap = row * num_words, 0.3
    inner = max(2.2, height / 4)  # no steeper than can be followed
    panel = left + inner + right + gap
    figure = Figure(figsize=(panel * len(shown.layers) - gap, height))
    styles = list(itertools.islice(line_styles(), len(shown.heads)))
    for number, layer in enumerate(shown.layers):
        axes = _axes(figure, number * panel + left, 0, inner, height)
        _connect(axes, shown.weights_YHLM[number], shown, styles, size)
        if len(shown.layers) > 1:
            axes.text(0.5, 1 + 0.1 / height, layer, size=9, ha="center", transform=axes.transAxes)
    below = 0.1
    if len(shown.heads) > 1:
        handles = [Line2D([], [], linewidth=2, **style) for style in styles]
        place: dict[str, Any] = dict(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4)
        figure.legend(handles, shown.heads, fontsize=9, handlelength=1.5, columnspacing=1.2, frameon=False, **place)
        below += 0.2 * -(-len(shown.heads) // 4)
    _caption(figure, shown, below)
    return figure


def _connect(axes: Axes, weights_HLM: Tensor, shown: Selection, styles: Sequence[dict[str, Any]], size: float) -> None:
    """Draw the words of both sides and the lines between them, those of each head a little apart from the others'."""
    from matplotlib.collections import LineCollection

    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.axis("off")
    _, left, right = _NAMES[shown.use]
    num_heads = len(weights_HLM)
    for x, words, heading, side in ((0, shown.queries, left, "right"), (1, shown.keys, right, "left")):
        margin = 0.02 if side == "left" else -0.02
        axes.text(x + margin, 1.0, heading, size=8, color=_GREY, ha=side, va="bottom", transform=axes.transAxes)
        place: dict[str, Any] = dict(ha=side, va="center", size=size, parse_math=False)
        for number, word in enumerate(words):
            colour = "black" if side == "left" or number in shown.rows else _GREY
            axes.text(x + margin, (number + 0.5) / len(words), word, color=colour, **place)
    step = 0.6 / max(len(shown.queries), len(shown.keys)) / num_heads
    for head, (weights_LM, style) in enumerate(zip(weights_HLM, styles, strict=True)):
        shift = (head - (num_heads - 1) / 2) * step
        lines, opacities = [], []
        for row, key in itertools.product(shown.rows, range(len(shown.keys))):
            if (weight := float(weights_LM[row, key])) >= _FAINTEST:
                ends = (row + 0.5) / len(shown.queries), (key + 0.5) / len(shown.keys)
                lines.append([(x, end + shift) for x, end in enumerate(ends)])
                opacities.append(min(1.0, weight))  # a sum may be a little more, by rounding
        width = 1.5 if num_heads > 1 else 2.5
        axes.add_collection(
            LineCollection(
                lines, alpha=opacities, linewidths=width, colors=style["color"], linestyles=style["linestyle"]
            )
        )


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add a panel at a place of the figure, all in inches."""
    x, y = figure.get_size_inches()
    return figure.add_axes((left / x, bottom / y, width / x, height / y))


def _caption(figure: Figure, shown: Selection, below: float) -> None:
    """Say below all panels what they show, by so many inches."""
    parts = [_NAMES[shown.use][0], *(names[0] for names in (shown.layers, shown.heads) if len(names) == 1)]
    figure.text(0.5, -below / figure.get_figheight(), ", ".join(parts), size=9, color=_GREY, ha="center", va="top")


def _inches(words: Sequence[str], size: float) -> float:
    """Return the width of the widest word, roughly; letters of Chinese, Japanese and Korean are twice as wide."""
    columns = (sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in word) for word in words)
    return max(columns) * 0.62 * size / _POINTS
