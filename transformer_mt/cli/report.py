"""``tmt report``: all that is known of a run, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.errors import InputError
from transformer_mt.system.console import tell


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="A run; it may be going on, or have ended in any way.")
    ],
    output: Annotated[Path, typer.Option("--output", help="The page, for example report.html.")],
    lines: Annotated[
        int,
        typer.Option("--lines", min=0, help="Of the test (else validation) text, as many to translate at most."),
    ] = 500,
    comet: Annotated[
        bool, typer.Option("--comet", help="Score these by the command comet-score as well, which must be on PATH.")
    ] = False,
) -> None:
    """Write one page of a run: scores, curves, speed, data, translations, attention, configuration.

    What cannot be told, as without a checkpoint or Matplotlib, is named there and on stderr.
    """
    from transformer_mt.evaluation.comet import check_comet
    from transformer_mt.evaluation.run_report import read_run
    from transformer_mt.evaluation.run_report_page import render_report
    from transformer_mt.system.lines import write_lines
    from transformer_mt.system.whole_files import check_writable

    check_writable(output)
    if comet:
        if lines == 0:
            raise InputError("--comet: nothing is translated with --lines 0; remove one of the two")
        check_comet()
    found = read_run(run, lines, comet, tell)
    page = render_report(found)
    for note in found.notes:
        tell(f"warning: {note}")
    write_lines(output, [page])
    if str(output) != "-":
        tell(f"wrote {output}")
