"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
