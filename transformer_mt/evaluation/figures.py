"""What all pictures have in common, with Matplotlib (the extra ``plots``): where they go, colours, names."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from transformer_mt.errors import InputError
from transformer_mt.evaluation.fonts import font_families
from transformer_mt.system.console import Tell
from transformer_mt.system.whole_files import check_writable, replaced_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FORMATS = ("png", "svg", "pdf")

# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white paper swallows. More lines
# than colours are told apart by dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DASHES = ("solid", "dashed", "dashdot", "dotted")


def check_picture(output: Path) -> None:
    """Refuse a picture that cannot be drawn, before anything is done for it.

    Raises:
        InputError: an image format that is not one of `FORMATS`, no Matplotlib, no directory to write to.
    """
    if _format(output) not in FORMATS:
        raise InputError(f"{output}: an image ends in {', '.join(f'.{name}' for name in FORMATS)}; rename it")
    check_writable(output)
    check_matplotlib("plot")


def check_matplotlib(what: str) -> None:
    """Refuse what needs pictures where there is nothing to draw them with.

    Raises:
        InputError: no Matplotlib.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError(f"{what}: Matplotlib is not installed; pip install 'transformer-mt[plots]'") from None


def save_picture(figure: Figure, output: Path) -> None:
    """Write a picture, whole or not at all. The same picture is the same bytes: without dates, and names of its parts
    that do not change.

    Raises:
        RunError: it cannot be written.
    """
    with replaced_file(output) as file:
        _write(figure, file, _format(output))


def as_data(figure: Figure) -> str:
    """Return a picture as an address that holds it (``data:image/svg+xml;…``), for a page without files beside it.

    Written into the page as it is, its style and its names would be those of the other pictures and of the page, too.
    What is behind it shows through.
    """
    file = io.BytesIO()
    _write(figure, file, "svg", transparent=True)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def _write(figure: Figure, file: IO[bytes], form: str, transparent: bool = False) -> None:
    import matplotlib

    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    how: dict[str, Any] = {"metadata": dates.get(form), "dpi": 150, "bbox_inches": "tight", "pad_inches": 0.1}
    with matplotlib.rc_context({"svg.hashsalt": "transformer_mt"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # that no font has, which `font_families` has told
        if form != "svg":
            figure.savefig(file, format=form, transparent=transparent, **how)
            return
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, transparent=transparent, **how)
        # Texts stand in comments, too, and XML has no place for some characters.
        file.write(_NOT_IN_XML.sub("\ufffd", drawn.getvalue().decode()).encode())


def _format(output: Path) -> str:
    return output.suffix.lower().removeprefix(".")


def add_legend(figure: Figure, lines: Sequence[Line2D], names: Sequence[str], tell: Tell) -> None:
    """Name the lines of a picture above it, in fonts that have the names' letters."""
    families = {"family": font_families(names, tell)}
    where: dict[str, Any] = {"loc": "outside upper center", "ncols": min(len(names), 4)}
    for text in figure.legend(lines, names, frameon=False, prop=families, **where).get_texts():
        text.set_parse_math(False)  # a name may have dollars


def line_styles() -> Iterator[dict[str, Any]]:
    """Yield colour and dashes of one line after the other, without end."""
    for dashes, colour in itertools.cycle(itertools.product(_DASHES, COLOURS)):
        yield {"color": colour, "linestyle": dashes}


def tidy(axes: Axes) -> None:
    """Give a panel small numbers, a pale grid and two open sides."""
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, for a legend; whole paths where these are not different."""
    names = [path.resolve().name for path in paths]
    names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    return [os.fsencode(name).decode("utf-8", "replace") for name in names]  # of any bytes
