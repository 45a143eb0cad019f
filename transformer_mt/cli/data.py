"""The commands of ``tmt data``: they look at parallel text, clean it and split it before anything is trained."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transformer_mt.cli.options import ConfigArgument, SetOption
from transformer_mt.errors import InputError, RunError
from transformer_mt.system.console import counted, tell

if TYPE_CHECKING:
    from transformer_mt.config.data_sections import DataConfig

data_app = typer.Typer(
    no_args_is_help=True, help="Look at parallel text, check, clean and split it, and make more with models."
)

OutputDirectory = Annotated[
    Path, typer.Option("--output", help="Directory for the files; an earlier result there is replaced.")
]
Compressed = Annotated[bool, typer.Option("--gz", help="Compress the text.")]


def _load(config: Path, overrides: list[str], parts: Sequence[str] = ("train", "valid", "test")) -> DataConfig:
    """The section ``data``, with the files of sources that a model makes in some parts of it."""
    from transformer_mt.config.loading import load_config

    data = load_config(config, overrides).data
    if all(source.model is None for part in parts for source in getattr(data, part)):
        return data
    from transformer_mt.curation.synthetic import synthesize  # with a model comes torch

    return synthesize(data, tell, parts)


@data_app.command("stats")
def stats(
    config: ConfigArgument,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write a page with pictures as well, for example page.html.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    overrides: SetOption = [],  # noqa: B006 (typer copies it)
) -> None:
    """Count words, lengths, repeats, scripts, and what the rules of cleaning would reject."""
    from transformer_mt.system.lines import write_lines
    from transformer_mt.system.whole_files import check_writable

    if str(output) == "-":
        raise InputError("--output -: stdout has the tables; name a file for the page")
    if output is not None:
        check_writable(output)
    data = _load(config, overrides)
    from transformer_mt.curation.page import render_page
    from transformer_mt.curation.stats import collect
    from transformer_mt.curation.summary import as_dict, format_summary

    parts = collect(data)
    if output is not None:
        write_lines(output, [render_page(parts, f"{config.stem}: {data.src_lang} to {data.tgt_lang}", data.clean)])
        tell(f"wrote {output}")
    print(json.dumps(as_dict(parts), ensure_ascii=False) if json_output else format_summary(parts))


@data_app.command("clean")
def clean(
    config: ConfigArgument,
    output: OutputDirectory,
    compressed: Compressed = False,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Write the training text without what data.clean rejects, with a report. (Token limits are up to training.)"""
    data = _load(config, overrides, ["train"])
    from transformer_mt.curation.clean import clean_corpus

    print(clean_corpus(data, output, ".gz" if compressed else "").summary())


@data_app.command("split")
def split(
    config: ConfigArgument,
    output: OutputDirectory,
    valid: Annotated[int, typer.Option("--valid", min=0, help="Pairs to hold out for validation.")],
    test: Annotated[int, typer.Option("--test", min=0, help="Pairs to hold out for a test.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other pairs.")] = 1,
    compressed: Compressed = False,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Hold out training pairs whose sides occur nowhere else in the training text."""
    data = _load(config, overrides, ["train"])
    from transformer_mt.curation.split import split_corpus

    print(split_corpus(data, output, valid, test, seed, ".gz" if compressed else "").summary())


@data_app.command("check")
def check(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Look for what spoils a model or its scores, one finding a line; status 1 if one of them ruins it."""
    data = _load(config, overrides)
    from transformer_mt.curation.check import check

    findings = check(data)
    for finding in findings:
        print(f"{'ruins' if finding.ruins else 'look'}: {finding.text}")
    if not findings:
        print("nothing found")
    if num_ruinous := sum(finding.ruins for finding in findings):
        raise RunError(
            f"{counted(len(findings), 'finding')} in {config}, listed above, of which "
            f"{num_ruinous} will ruin a model or its scores"
        )


@data_app.command("synthesize")
def synthesize_command(config: ConfigArgument, overrides: SetOption = []) -> None:  # noqa: B006
    """Make what models translate for data.train, valid and test ahead of training; print both files of each source."""
    from transformer_mt.config.loading import load_config

    data = load_config(config, overrides).data
    asked = [source.model is not None for source in (*data.train, *data.valid, *data.test)]
    if not any(asked):
        raise InputError(f"{config}: no source has back_translate or distill; add one to data.train")
    from transformer_mt.curation.synthetic import synthesize

    made = synthesize(data, tell)
    for source in itertools.compress((*made.train, *made.valid, *made.test), asked):
        print(f"{source.src}\t{source.tgt}")
