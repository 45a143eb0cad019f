"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration; see configs/reference.yaml.")
]


SetOption = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a configuration key.")]


ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a checkpoint or an averaged model.")]
