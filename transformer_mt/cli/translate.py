"""``tmt translate``: text in, translations out, line by line."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transformer_mt.cli.options import ModelOrExportArgument, SetSearchOption, warn_of_form
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell

if TYPE_CHECKING:
    from transformer_mt.decoding.translations import Alternative, Translation
    from transformer_mt.decoding.translator import Translator


class LongLines:
    """What a `Translator` warns with: of any number of long lines one warning, with their count, told at the end.

    What is about no line, as memory that is too small, is told when it comes.
    """

    def __init__(self, at_once: bool = False) -> None:
        """``at_once``: each is told, for those who wait for each line."""
        self._at_once = at_once
        self._first = ""
        self._num_more = 0

    def __call__(self, line: str) -> None:
        if self._at_once or not line.startswith("warning: line "):
            tell(line)
        elif self._first:
            self._num_more += 1
        else:
            self._first = line

    def tell(self) -> None:
        if self._first:
            tell(self._first + (f"; more such lines: {self._num_more:,}" if self._num_more else ""))


def translate(
    model: ModelOrExportArgument,
    source: Annotated[str, typer.Option("--input", help="File to translate; - is stdin.")] = "-",
    output: Annotated[str, typer.Option("--output", help="File for the translations; - is stdout.")] = "-",
    beam_size: Annotated[
        int | None, typer.Option("--beam-size", help="Hypotheses kept at each step; 1 is greedy.")
    ] = None,
    length_penalty: Annotated[float | None, typer.Option("--length-penalty", help="Exponent of the penalty.")] = None,
    n_best: Annotated[
        int | None, typer.Option("--n-best", help="Write N lines a sentence: number ||| text ||| score.")
    ] = None,
    tgt_lang: Annotated[
        str | None, typer.Option("--tgt-lang", help="Of a model with several target languages: the one wanted.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="File whose line i is what translation i starts with, if not blank.")
    ] = None,
    ensemble: Annotated[
        list[Path], typer.Option("--ensemble", metavar="MODEL", help="A further model; give it again for more.")
    ] = [],  # noqa: B006
    align: Annotated[
        bool, typer.Option("--align", help="Add links of words, from attention: text ||| 0-0 1-2.")
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: text, score, tokens, log_probs, alternatives.")
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Tell speed and shares of suspicious translations on stderr, at the end.")
    ] = False,
    line_buffered: Annotated[
        bool, typer.Option("--line-buffered", help="Answer each line before the next is read, as a terminal has it.")
    ] = False,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Translate text, line by line: beam search, greedy or sampling."""
    from transformer_mt.evaluation.output_checks import OutputStats
    from transformer_mt.system.lines import count_lines, write_texts
    from transformer_mt.system.whole_files import check_writable

    check_writable(output)
    warn_of_form(source)
    if line_buffered and output != "-":
        raise InputError(f"--line-buffered: {output} appears as a whole at the end; leave out --output, or that option")
    from tqdm import tqdm

    from transformer_mt.decoding.translator import CHUNK_LINES, Translator

    options = {"beam_size": beam_size, "length_penalty": length_penalty, "n_best": n_best, "tgt_lang": tgt_lang}
    settings = {key: value for key, value in options.items() if value is not None}
    is_typed = source == "-" and sys.stdin is not None and sys.stdin.isatty()
    chunk_lines = 1 if line_buffered or (is_typed and output == "-") else CHUNK_LINES
    has_bar = sys.stderr.isatty() and (output != "-" or (not is_typed and Path("/dev/stdout").is_file()))

    long_lines = LongLines(at_once=chunk_lines == 1)
    translator = Translator.load(model, overrides, long_lines, ensemble, settings)
    counts, started = OutputStats(), time.monotonic()

    is_text = not (json_output or align) and n_best is None

    def texts() -> Iterator[str]:
        if is_typed:
            tell("Type text to translate, a line and Enter at a time; Ctrl-D on an empty line ends.")
        with tqdm(
            total=count_lines(source) if has_bar else None, unit=" lines", disable=not has_bar, dynamic_ncols=True
        ) as bar:
            for number, (one, lead, end) in enumerate(
                _translated(translator, source, prefix, is_text, chunk_lines, align, json_output)
            ):
                bar.update()
                if stats:
                    counts.count(one.source, one.text, one.num_source_tokens, len(one.tokens), one.is_cut)
                yield f"{lead}{one.text}{end}" if is_text else _formatted(one, number, json_output, n_best is not None)

    try:
        write_texts(output, texts())
    finally:
        long_lines.tell()
    if stats:
        tell(counts.format(time.monotonic() - started))
        _tell_of_precision(translator.precision)


def _tell_of_precision(precision: str) -> None:
    if precision == "float32":
        faster = "search.precision=int8 on a CPU, bfloat16 on a GPU"
        tell(f"in float32; faster, with 5 to 7 % of the lines in other words (docs/performance.md): {faster}")


def _translated(
    translator: Translator,
    source: str,
    prefix: str | None,
    is_text: bool,
    chunk_lines: int,
    align: bool,
    log_probs: bool,
) -> Iterator[tuple[Translation, str, str]]:
    """The translations, with what stands before and behind each. Only text alone can have a line in several parts."""
    from transformer_mt.system.lines import read_line_pairs, read_lines, read_parts

    if prefix is not None:
        ours, theirs = itertools.tee(read_line_pairs(source, prefix))
        translations = translator.stream(
            (line for line, _ in ours), (start for _, start in theirs), chunk_lines, align, log_probs
        )
    elif is_text:
        texts, parts = itertools.tee(read_parts(source))
        translations = translator.stream((part.text for part in texts), chunk_lines=chunk_lines)
        yield from ((one, part.lead, part.end) for one, part in zip(translations, parts, strict=True))
        return
    else:
        translations = translator.stream(read_lines(source), None, chunk_lines, align, log_probs)
    yield from ((one, "", "\n") for one in translations)


def _formatted(translation: Translation, number: int, json_output: bool, is_list: bool) -> str:
    """The lines of a translation as JSON, as the list of its alternatives, or as it is with its links."""
    if json_output:
        alternatives = [_fields(alternative) for alternative in translation.alternatives]
        return json.dumps({**alternatives[0], "alternatives": alternatives}, ensure_ascii=False) + "\n"
    if is_list:
        return "".join(f"{number} ||| {_with_links(one)} ||| {one.score:.4f}\n" for one in translation.alternatives)
    best = translation.alternatives[0]
    return (_with_links(best) if best.text.strip() else best.text) + "\n"  # a blank line stays blank


def _fields(alternative: Alternative) -> dict[str, Any]:
    """For JSON; without an alignment, where none was asked for."""
    return {key: value for key, value in alternative._asdict().items() if value is not None}


def _with_links(alternative: Alternative) -> str:
    """Its text and, where they were asked for, its links as Marian prints them."""
    if alternative.alignment is None:
        return alternative.text
    return f"{alternative.text} ||| {' '.join(f'{i}-{j}' for i, j in alternative.alignment)}"
