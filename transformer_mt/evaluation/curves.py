"""Pictures of runs, with Matplotlib (the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformer_mt.checkpoints.run_records import FILE_NAME, Record, read_records
from transformer_mt.errors import InputError
from transformer_mt.evaluation.figures import (
    add_legend,
    check_picture,
    line_styles,
    save_picture,
    short_names,
    tidy,
)
from transformer_mt.system.console import Tell, tell_nobody

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_Panel = tuple[str, str, str, str]  # title, kind of record, key, scale of y
_PANELS = (
    ("Training loss", "train", "loss", "linear"),
    ("Perplexity", "valid", "perplexity", "log"),
    ("Validation BLEU", "valid", "bleu", "linear"),
    ("Validation chrF", "valid", "chrf", "linear"),
    ("Validation TER", "valid", "ter", "linear"),
    ("Learning rate", "train", "learning_rate", "linear"),
    ("Gradient norm", "train", "gradient_norm", "log"),
)
_SPEED = ("Target tokens a second", "train", "tokens_per_second", "linear")


def plot_curves(runs: Sequence[Path], output: Path, tell: Tell = tell_nobody) -> None:
    """Draw what runs have logged, also while they go on, over their updates and each in its colour.

    Raises:
        InputError: as `check_picture`, or a path that is no run directory, or a run that has logged nothing yet.
        RunError: the picture cannot be written.
    """
    check_picture(output)
    from matplotlib.figure import Figure

    records = [_records(run) for run in runs]
    panels = _logged(_PANELS, records)
    num_columns = 2 if len(panels) == 4 else 3
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(4.2 * num_columns, 2.8 * num_rows + 0.4), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            lines = _draw(axes, panels[number], records)
            if number + num_columns >= len(panels):  # nothing below it
                axes.tick_params(labelbottom=True)
                axes.set_xlabel("updates")
        else:
            axes.set_visible(False)
    add_legend(figure, lines, short_names(runs), tell)
    save_picture(figure, output)


def curve_figures(records: Sequence[Record]) -> Iterator[tuple[str, Figure]]:
    """Yield a title and a picture for each of the curves of a run, and for its speed."""
    from matplotlib.figure import Figure

    for panel in _logged((*_PANELS, _SPEED), [records]):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.subplots()
        _draw(axes, panel, [records])
        axes.set_xlabel("updates")
        yield axes.get_title(), figure


def _logged(panels: Sequence[_Panel], records: Sequence[Sequence[Record]]) -> list[_Panel]:
    """Return those of the panels for which there are numbers."""
    logged = {(record["kind"], key) for of_run in records for record in of_run for key in record}
    return [panel for panel in panels if panel[1:3] in logged or ("train", panel[2]) in logged]


def _records(run: Path) -> list[Record]:
    if not (run / FILE_NAME).exists():
        if (run / "checkpoints").is_dir():
            raise InputError(f"{run}: has logged nothing yet; wait for the first train.log_steps")
        raise InputError(f"{run}: not a run directory (no {FILE_NAME}); give one that tmt train has made")
    records = read_records(run / FILE_NAME)
    if not any("perplexity" in record for record in records):  # both kinds, training and validation, have it
        raise InputError(f"{run}: has logged nothing yet; wait for the first train.log_steps")
    return records


def _points(records: Sequence[Record], kind: str, key: str) -> tuple[list[int], list[float]]:
    """The updates at which a run logged a number, and the numbers."""
    points = [record for record in records if record["kind"] == kind and type(record.get(key)) in (int, float)]
    return [record["step"] for record in points], [record[key] for record in points]


def _draw(axes: Axes, panel: _Panel, records: Sequence[Sequence[Record]]) -> list[Line2D]:
    """One panel; returns the line of each run."""
    from matplotlib.ticker import LogLocator, NullLocator

    title, kind, key, scale = panel
    lines: list[Line2D] = []
    for of_run, style in zip(records, line_styles(), strict=False):
        if key == "perplexity":
            # Where the two part, the model begins to learn by heart.
            title = "Perplexity: validation (dots), training (thin)"
            axes.plot(*_points(of_run, "train", key), linewidth=0.7, **style)
        steps, values = _points(of_run, kind, key)
        marker = "o" if kind == "valid" or len(steps) == 1 else None
        lines += axes.plot(steps, values, linewidth=1.5, marker=marker, markersize=3, **style)
    axes.set_title(title, fontsize=10)
    axes.set_yscale(scale)
    if scale == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.0f}")
    tidy(axes)
    return lines
