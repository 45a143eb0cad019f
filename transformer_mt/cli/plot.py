"""The commands of ``tmt plot``: pictures of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


plot_app = typer.Typer(no_args_is_help=True, help="Draw pictures: png, svg or pdf.")


@plot_app.command("curves")
def plot_curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR…", help="Runs to compare; they may be going on.")],
    output: Annotated[Path, typer.Option("--output", help="The picture, for example curves.png.")],
) -> None:
    """Draw loss, perplexity, scores and learning rate of runs over their updates."""
    from transformer_mt.evaluation.curves import plot_curves

    plot_curves(runs, output)
