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
    target: Annotated[str, typer.Option("--format", help="ctranslate2 or marian.")],
    output: Annotated[Path, typer.Option("--output", help="Directory; an earlier export there is replaced.")],
    quantization: Annotated[str, typer.Option("--quantization", help="float32 or int8.")] = "float32",
) -> None:
    """Write a model as a directory that another program loads."""
    if target not in ("ctranslate2", "marian"):
        raise InputError(f"--format {target}: this version writes ctranslate2 and marian; choose one of them")
    if target == "marian" and quantization != "float32":
        raise InputError(f"--quantization {quantization}: a Marian directory has float32; leave the option out")
    from transformer_mt.checkpoints.model_directory import load_model

    loaded = load_model(model)
    if target == "marian":
        from transformer_mt.exchange.card import marian_card
        from transformer_mt.exchange.marian import export_marian

        export_marian(loaded, marian_card(model, loaded), output)
    else:
        from transformer_mt.exchange.ctranslate2 import export_ctranslate2

        export_ctranslate2(loaded.model, loaded.tokenizers, output, quantization)
    tell(f"exported {loaded.path} to {output} ({target}, {quantization})")


def import_model(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A MarianMT directory, or the name of one on the Hugging Face hub.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Directory of the model; an earlier one is replaced.")],
) -> None:
    """Make a model of another program's: of the Marian family, as OPUS-MT's are."""
    from transformer_mt.checkpoints.model_directory import model_files
    from transformer_mt.exchange.marian import import_marian, local_directory
    from transformer_mt.system.directories import check_replaceable

    check_replaceable(output, model_files, "an imported model")
    import_marian(local_directory(directory), output)
    tell(f"imported {directory} to {output}")
