"""``tmt compare``: which of several systems is better, and where."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.cli.options import SetSearchOption, TgtLangOption, TokenizeOption
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="SYSTEM…", help="Two or more: files of translations, or models (with --src)."),
    ],
    ref: Annotated[list[str], typer.Option("--ref", help="Reference translations; give it again for more.")],
    src: Annotated[str | None, typer.Option("--src", help="Source text; models translate it.")] = None,
    train: Annotated[
        str | None,
        typer.Option("--train", help="Training text of the target language: words by their frequency in it."),
    ] = None,
    sentences: Annotated[
        int, typer.Option("--sentences", min=0, help="Sentences won, lost and with changed numbers or names to show.")
    ] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write a page as well, for example page.html.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
    tokenize: TokenizeOption = None,
    tgt_lang: TgtLangOption = None,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Compare systems with the first: scores, whether differences may be chance, sentences, lengths, numbers, names."""
    from transformer_mt.cli.evaluate import load_systems
    from transformer_mt.evaluation import comparison
    from transformer_mt.evaluation.comparison_page import render_comparison
    from transformer_mt.evaluation.comparison_text import format_comparison
    from transformer_mt.system.lines import read_lines, write_lines
    from transformer_mt.system.whole_files import check_writable

    are_models = [path.is_dir() for path in paths]
    if len(paths) < 2:
        raise InputError(f"compare: {paths[0]} alone found; give two systems or more, files of translations or models")
    if any(are_models) and src is None:
        raise InputError(f"compare: {paths[are_models.index(True)]} is a model, which needs text; give --src F")
    if overrides and not any(are_models):
        raise InputError("compare: --set changes how models translate, and all are files; remove --set")
    if [src, train, *ref, *map(str, paths)].count("-") > 1:
        raise InputError("stdin: cannot be two of the files; name a file for one")
    if str(output) == "-":
        raise InputError("--output -: stdout has the answer; name a file for the page")
    if output is not None:
        check_writable(output)
    sources = None if src is None else list(read_lines(src))
    references = [list(read_lines(path)) for path in ref]
    lines = None if train is None else _opened(read_lines(train))
    names = [src or "sources", *ref]
    systems = load_systems(paths, are_models, sources, references, names, overrides, tokenize, tgt_lang)
    found = comparison.compare(systems, references, sources, lines, num_shown=sentences, names=names)
    for note in found.notes:
        tell(f"warning: {note}")
    if output is not None:
        write_lines(output, [render_comparison(found, sentences)])
        tell(f"wrote {output}")
    print(json.dumps(found.as_dict(), ensure_ascii=False) if json_output else format_comparison(found, sentences))


def _opened(lines: Iterator[str]) -> Iterator[str]:
    """Return lines of a file that can be read: what it lacks is told before models translate."""
    return itertools.chain([*itertools.islice(lines, 1)], lines)
