"""``tmt average``, ``tmt import`` and ``tmt export``: models made of models."""

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
        int | None, typer.Option("--last", min=1, help="With a run: its newest N checkpoints (default: up to 5).")
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
    target: Annotated[str, typer.Option("--format", help="ctranslate2, marian, pegasus, onnx or argos.")],
    output: Annotated[
        Path, typer.Option("--output", help="Directory, of argos a file; an earlier export there is replaced.")
    ],
    quantization: Annotated[
        str | None,
        typer.Option("--quantization", help="Of ctranslate2 and argos: float32, bfloat16 or int8 (default: float32)."),
    ] = None,
) -> None:
    """Write a model as a directory or file that another program loads."""
    if target not in ("ctranslate2", "marian", "pegasus", "onnx", "argos"):
        raise InputError(
            f"--format {target}: not one of ctranslate2, marian, pegasus, onnx and argos; choose one of them"
        )
    if target in ("marian", "pegasus") and quantization is not None:
        raise InputError(f"--quantization {quantization}: --format {target} writes float32; leave the option out")
    if target == "onnx" and quantization is not None:
        raise InputError("--quantization: --format onnx writes float32 and int8 side by side; leave it out")
    from transformer_mt.checkpoints.model_directory import load_model

    loaded = load_model(model)
    if target in ("marian", "pegasus"):
        from transformer_mt.exchange.card import marian_card
        from transformer_mt.exchange.marian import CLASSES, export_marian

        export_marian(loaded, marian_card(model, loaded, CLASSES[target]), output, target)
    elif target == "onnx":
        from transformer_mt.exchange.onnx import export_onnx

        export_onnx(loaded.model, loaded.tokenizers, output)
    elif target == "argos":
        from transformer_mt.exchange.argos import export_argos

        export_argos(loaded, output, quantization or "float32")
    else:
        from transformer_mt.exchange.ctranslate2 import export_ctranslate2

        export_ctranslate2(loaded, output, quantization or "float32")
    precisions = {"onnx": "float32 and int8"}
    tell(f"exported {loaded.path} to {output} ({target}, {precisions.get(target, quantization or 'float32')})")


def import_model(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A MarianMT directory, or the name of one on the Hugging Face hub.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Directory of the model; an earlier one is replaced.")],
) -> None:
    """Make a model of another program's: of the Marian family, as OPUS-MT's are."""
    from transformer_mt.checkpoints.model_directory import model_files
    from transformer_mt.exchange.from_marian import import_marian, local_directory
    from transformer_mt.system.directories import check_replaceable

    check_replaceable(output, model_files, "an imported model")
    import_marian(local_directory(directory), output)
    tell(f"imported {directory} to {output}")
