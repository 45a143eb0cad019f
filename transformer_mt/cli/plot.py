"""The commands of ``tmt plot``: pictures of runs and of translations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from transformer_mt.cli.options import ModelArgument, SetSearchOption, TgtLangOption, TokenizeOption
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell

plot_app = typer.Typer(no_args_is_help=True, help="Draw pictures: png, svg or pdf.")


@plot_app.command("curves")
def plot_curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR…", help="Runs to compare; they may be going on.")],
    output: Annotated[Path, typer.Option("--output", help="The picture, for example curves.png.")],
) -> None:
    """Draw loss, perplexity, scores and learning rate of runs over their updates."""
    from transformer_mt.evaluation.curves import plot_curves

    plot_curves(runs, output, tell)


@plot_app.command("lengths")
def plot_lengths(
    src: Annotated[str, typer.Option("--src", help="Source text.")],
    ref: Annotated[list[str], typer.Option("--ref", help="Reference translations; give it again for more.")],
    models: Annotated[
        list[Path], typer.Argument(metavar="[MODEL…]", help="Models that translate --src first.", show_default=False)
    ] = [],  # noqa: B006
    hyp: Annotated[list[str], typer.Option("--hyp", help="Translations; give it again for more.")] = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option("--output", help="The picture, for example lengths.png.")] = None,
    edges: Annotated[
        str | None,
        typer.Option(
            "--edges",
            help="The longest source of each group but the last, in words, as 10,20,30; by default up to eight round "
            "numbers.",
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the numbers, as one JSON object.")] = False,
    tokenize: TokenizeOption = None,
    tgt_lang: TgtLangOption = None,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Draw BLEU and chrF by the length of the source, of models or translations, with intervals and signatures."""
    from transformer_mt.cli.evaluate import load_systems
    from transformer_mt.evaluation.figures import check_picture
    from transformer_mt.evaluation.lengths import plot_lengths, scores_by_length
    from transformer_mt.system.lines import read_lines

    if not (models or hyp) or not (output or json_output):
        raise InputError("plot lengths: give a MODEL or --hyp F, and --output F.png or --json")
    if overrides and not models:
        raise InputError("plot lengths: --set changes how MODEL translates, --hyp is translated already; remove --set")
    if [src, *ref, *hyp].count("-") > 1:
        raise InputError("stdin: cannot be two of the files; name a file for one")
    limits = None if edges is None else _edges(edges)
    if output is not None:
        check_picture(output)
    sources, references = list(read_lines(src)), [list(read_lines(path)) for path in ref]
    names = [src, *ref]
    paths, are_models = [*models, *map(Path, hyp)], [True] * len(models) + [False] * len(hyp)
    systems = load_systems(paths, are_models, sources, references, names, overrides, tokenize, tgt_lang)
    scores = scores_by_length(sources, references, systems, limits, names)
    for note in dict.fromkeys(note for report in scores.all.reports for note in report.notes):
        tell(f"warning: {note}")
    if output is not None:
        plot_lengths(scores, output, tell)
    if json_output:
        print(json.dumps(scores.as_dict(), ensure_ascii=False))


def _edges(text: str) -> list[int]:
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if any(number <= before for before, number in zip([0, *numbers], numbers, strict=False)):
        raise InputError(f"--edges: '{text}' found; give ascending numbers of words, as 10,20,30")
    return numbers


@plot_app.command("attention")
def plot_attention(
    model: ModelArgument,
    src: Annotated[str, typer.Option("--src", help="The sentence, as text.")],
    tgt: Annotated[
        str | None, typer.Option("--tgt", help="Its translation, as text; by default the model translates.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="The picture, for example attention.png.")] = None,
    use: Annotated[
        str, typer.Option("--use", help="encoder or decoder (self-attention), or cross (over the source).")
    ] = "cross",
    layer: Annotated[str, typer.Option("--layer", help="Its number from 1, last, all or mean.")] = "last",
    head: Annotated[str, typer.Option("--head", help="Its number from 1, last, all or mean.")] = "mean",
    style: Annotated[
        str, typer.Option("--style", help="table, or lines: as opaque as the weight, a colour for each head.")
    ] = "table",
    word: Annotated[str | None, typer.Option("--word", help="Show only what this word looks at.")] = None,
    pieces: Annotated[bool, typer.Option("--pieces", help="By the model's pieces, not by words.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the numbers, as one JSON object.")] = False,
    tgt_lang: Annotated[
        str | None, typer.Option("--tgt-lang", help="Of a model with several target languages: the one wanted.")
    ] = None,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Draw what a model looks at in a sentence and its translation, a query a row and a key a column.

    The weights are those of one forced pass. Of a word's pieces the weights as keys are added up, as queries averaged.
    """
    from transformer_mt.evaluation.attention_pictures import STYLES, USES, draw_attention, select
    from transformer_mt.evaluation.figures import check_picture

    for option, value, choices in (("--use", use, USES), ("--style", style, STYLES)):
        if value not in choices:
            raise InputError(f"{option}: '{value}' found; give {', '.join(choices[:-1])} or {choices[-1]}")
    if output is None and not json_output:
        raise InputError("plot attention: give --output F.png or --json")
    if output is not None:
        check_picture(output)
    from transformer_mt.decoding.translator import Translator

    translator = Translator.load(model, overrides, tell, settings={} if tgt_lang is None else {"tgt_lang": tgt_lang})
    chosen = select(translator.attention_maps(src, tgt), use, layer, head, pieces, word)
    if output is not None:
        draw_attention(chosen, style, output, tell)
    if json_output:
        print(json.dumps(chosen.as_dict(), ensure_ascii=False))
