"""``tmt average`` and ``tmt export``: models made of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.cli.options import ModelArgument
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell


def average(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR|CHECKPOINT…", help="A run, or checkpoints one by one.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Directory of the averaged model.")],
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="With a run: its newest N checkpoints.  [default: up to 5]")
    ] = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Score it and the run's best checkpoint on the run's validation text.")
    ] = False,
) -> None:
    """Average the weights of checkpoints into one model."""
    from transformer_mt.checkpoints import model_directory
    from transformer_mt.system.directories import check_replaceable
    from transformer_mt.training.averaging import average as run_averaging

    check_replaceable(output, model_directory.model_files, "an averaged model")
    run_averaging(paths, output, tell, last=last, validate=validate)
    tell(f"written to {output}")


def export(
    model: ModelArgument,
    target: Annotated[str, typer.Option("--format", help="ctranslate2.")],
    output: Annotated[Path, typer.Option("--output", help="Directory; an earlier export there is replaced.")],
    quantization: Annotated[str, typer.Option("--quantization", help="float32 or int8.")] = "float32",
) -> None:
    """Write a model as a directory that another program loads."""
    if target != "ctranslate2":
        raise InputError(f"--format {target}: this version writes ctranslate2 only; choose that")
    from transformer_mt.checkpoints.model_directory import load_model
    from transformer_mt.exchange.ctranslate2 import export_ctranslate2

    loaded = load_model(model)
    export_ctranslate2(loaded.model, loaded.tokenizers, output, quantization)
    tell(f"exported {loaded.path} to {output} ({target}, {quantization})")
