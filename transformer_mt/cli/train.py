"""``tmt train``: a configuration in, a run directory out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.cli.options import ConfigArgument, SetOption
from transformer_mt.errors import InputError


def train(
    config: ConfigArgument,
    output: Annotated[
        Path | None, typer.Option("--output", help="Run directory (default: runs/NAME_OF_CONFIG).", show_default=False)
    ] = None,
    overrides: SetOption = [],  # noqa: B006
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint, if there is one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prepare the text, print the plan and try its largest batch only.")
    ] = False,
) -> None:
    """Train a model: tokenizer, corpus, training, validation, checkpoints."""
    if resume and dry_run:
        raise InputError("--resume: has no effect beside --dry-run, which looks at no run; leave one of them out")
    from transformer_mt.config.loading import load_config

    loaded = load_config(config, overrides)
    # Only now, as importing PyTorch takes seconds: a mistake in a configuration is told at once.
    from transformer_mt.training.loop import train as run_training

    run_training(loaded, output or Path("runs") / config.stem, resume=resume, dry_run=dry_run)
