"""The commands of ``tmt tokenizer``: train one, and encode or decode with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.cli.options import warn_of_form
from transformer_mt.system.console import tell

tokenizer_app = typer.Typer(
    no_args_is_help=True, help="Train a SentencePiece tokenizer, and encode or decode with one."
)


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="Text file or pattern; give it again for more (also compressed)."),
    ],
    output: Annotated[Path, typer.Option("--output", help="Where the model goes, for example tok.model.")],
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", help="Pieces; lowered where the text supports fewer.")
    ] = 10000,
    kind: Annotated[str, typer.Option("--type", help="bpe or unigram.")] = "bpe",
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a tokenizer.* key.")
    ] = [],  # noqa: B006 (typer copies it)
) -> None:
    """Train a tokenizer on text files."""
    from transformer_mt.config.loading import tokenizer_config
    from transformer_mt.data.readers.plain_text import files_of
    from transformer_mt.errors import InputError
    from transformer_mt.system.lines import read_lines
    from transformer_mt.system.whole_files import check_writable, replaced_file
    from transformer_mt.text.tokenizer_training import train_tokenizer

    config = tokenizer_config({"vocab_size": vocab_size, "type": kind}, overrides)
    if str(output) == "-":
        raise InputError("--output -: a model is a file of its own; name one, for example tok.model")
    check_writable(output)
    paths = files_of(tuple(inputs))
    for path in paths:
        warn_of_form(path)
    trained, report = train_tokenizer((line for path in paths for line in read_lines(path)), config)
    with replaced_file(output) as file:
        file.write(trained.model)
    tell(report)


@tokenizer_app.command("encode")
def tokenizer_encode(
    model: Annotated[Path, typer.Option("--model", help="A SentencePiece model file.")],
) -> None:
    """Split each line of stdin into pieces."""
    from transformer_mt.system.lines import read_lines, write_lines
    from transformer_mt.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    write_lines("-", (" ".join(tokenizer.encode_pieces(line)) for line in read_lines("-")))


@tokenizer_app.command("decode")
def tokenizer_decode(
    model: Annotated[Path, typer.Option("--model", help="A SentencePiece model file.")],
) -> None:
    """Join the pieces of each line of stdin into text."""
    from transformer_mt.system.lines import read_lines, write_lines
    from transformer_mt.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    write_lines("-", (tokenizer.decode_pieces(line.split(" ")) if line else "" for line in read_lines("-")))
