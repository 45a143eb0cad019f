"""``tmt init``: from text to a configuration to train with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.errors import InputError
from transformer_mt.system.console import tell

_OfFile = str | None


def init(
    src: Annotated[str, typer.Option("--src", help="Training text: the source side, or one file of pairs.")],
    output: Annotated[Path, typer.Option("--output", help="The configuration, for example my.yaml.")],
    tgt: Annotated[_OfFile, typer.Option("--tgt", help="Its translations, line by line.")] = None,
    valid_src: Annotated[
        _OfFile, typer.Option("--valid-src", help="Validation text, or a file of pairs (default: some is held out).")
    ] = None,
    valid_tgt: Annotated[_OfFile, typer.Option("--valid-tgt", help="Its translations.")] = None,
    test_src: Annotated[
        _OfFile, typer.Option("--test-src", help="Test text, or a file of pairs (default: some is held out).")
    ] = None,
    test_tgt: Annotated[_OfFile, typer.Option("--test-tgt", help="Its translations.")] = None,
    src_lang: Annotated[
        _OfFile, typer.Option("--src-lang", help="The source's language (default: by the files).")
    ] = None,
    tgt_lang: Annotated[
        _OfFile, typer.Option("--tgt-lang", help="The target's language (default: by the files).")
    ] = None,
    src_column: Annotated[
        _OfFile, typer.Option("--src-column", help="In a file of pairs, the source's column: its name or number.")
    ] = None,
    tgt_column: Annotated[_OfFile, typer.Option("--tgt-column", help="The target's column.")] = None,
    init_from: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="A model to adapt to the text, instead of a new one.")
    ] = None,
    replay_src: Annotated[
        _OfFile,
        typer.Option("--replay-src", help="With --from: old text to mix in (default: what the model was trained on)."),
    ] = None,
    replay_tgt: Annotated[_OfFile, typer.Option("--replay-tgt", help="Its translations.")] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="What training may take on this machine, besides scoring and saving.")
    ] = 720,
) -> None:
    """Look at parallel text and write a configuration for it that says why; next: tmt train."""
    given = {"valid": (valid_src, valid_tgt), "test": (test_src, test_tgt), "replay": (replay_src, replay_tgt)}
    for part, (one, other) in given.items():
        if one is None and other is not None:
            raise InputError(f"--{part}-tgt {other}: is the target side; name the source side with --{part}-src")
    if replay_src is not None and init_from is None:
        raise InputError(f"--replay-src {replay_src}: is old text for a model that is adapted; name that with --from")
    if not 0 < minutes < math.inf:
        raise InputError(f"--minutes {minutes}: should be a positive number, the time that training may take")
    from transformer_mt.recipes.start import Asked, write_configuration

    asked = Asked(
        src=src,
        tgt=tgt,
        output=output,
        given={part: (one, other) for part, (one, other) in given.items() if one is not None},
        codes=(src_lang, tgt_lang),
        columns=(src_column, tgt_column),
        init_from=init_from,
        most_seconds=60 * minutes,
    )
    write_configuration(asked, tell)
