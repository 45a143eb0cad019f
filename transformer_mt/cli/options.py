"""Arguments and options that several commands have, and a warning of files that these name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.system.console import tell

# The ends of names of files whose lines are not text alone.
_MORE_THAN_LINES = frozenset(
    (".csv", ".tsv", ".json", ".jsonl", ".tmx", ".xlf", ".xliff", ".po", ".srt", ".vtt", ".html", ".xml", ".sgm", ".md")
)

ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration; see configs/reference.yaml.")
]


# Of commands that score the translations of several systems.
TokenizeOption = Annotated[str | None, typer.Option("--tokenize", help="sacreBLEU's tokenisation, as of tmt eval.")]


TgtLangOption = Annotated[str | None, typer.Option("--tgt-lang", help="Of the translations, as of tmt eval.")]


SetOption = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key.")]


# Of commands that use a trained model, whose configuration it has.
SetSearchOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a search.* key, as search.precision=int8.")
]


ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run, a checkpoint, an averaged or an imported model.")
]


# Of commands that run an export for CTranslate2, too.
ModelOrExportArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run, a checkpoint, an averaged or an imported model, or an export for CTranslate2."
    ),
]


def warn_of_form(path: str) -> None:
    """Warn where a file that is read as lines of text has something else in it by its name, or other line ends."""
    from transformer_mt.system.compression import COMPRESSED
    from transformer_mt.system.lines import OLD_LINE_ENDS, ends_at_cr

    name = Path(path)
    if Path(name.stem if name.suffix in COMPRESSED else name).suffix.lower() in _MORE_THAN_LINES:
        tell(f"warning: {path}: is read as lines of text, markup and columns too; write out the text alone")
    elif name.is_file() and ends_at_cr(path):
        tell(f"warning: the lines of {path} {OLD_LINE_ENDS}")
