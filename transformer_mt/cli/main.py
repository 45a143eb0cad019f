"""The command line. Thin: it reads options, calls one function, and turns an expected failure into one line.

Nothing heavy is imported before a command needs it, so that ``tmt --help`` answers at once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from transformer_mt import __version__
from transformer_mt.cli.data import ConfigArgument, SetOption, data_app
from transformer_mt.errors import InputError, TmtError, is_out_of_memory
from transformer_mt.system.console import let_go_of_stderr
from transformer_mt.system.console import tell as _warn
from transformer_mt.system.signals import raised_signals

if TYPE_CHECKING:
    from transformer_mt.decoding.translator import Translation, Translator

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train your own machine translation engine: two text files in, a translator out.",
)
tokenizer_app = typer.Typer(
    no_args_is_help=True, help="Train a SentencePiece tokenizer, and encode or decode with one."
)
app.add_typer(tokenizer_app, name="tokenizer")
plot_app = typer.Typer(no_args_is_help=True, help="Draw pictures: png, svg or pdf.")
app.add_typer(plot_app, name="plot")
app.add_typer(data_app, name="data")

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a checkpoint or an averaged model.")]


# Typer shows usage errors as a box of several lines; ours are one line, like every other refusal. The class is
# Click's or Typer's own, by Typer's version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


_INTERRUPTED = 130  # the status of an interrupt, which some versions of Typer return and others raise


def main() -> None:
    """Entry point of ``tmt``: exit status 0 done, 1 failed while running, 2 wrong usage, configuration or input."""
    if sys.stderr is None:  # it was closed (`2>&-`): print would write to stdout what is meant for it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    atexit.register(let_go_of_stderr)
    if sys.stdout is None:
        _leave(2, "stdout: is closed; send it to a file, or to /dev/null")
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # what we write is UTF-8, in an ASCII terminal too; a path is its bytes
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        # A rank may wait for others in code where Python's handlers do not run; it is ended as ever.
        with contextlib.nullcontext() if "RANK" in os.environ else raised_signals():
            status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()  # here, where a failure can still be told
    except TmtError as error:
        _leave(error.exit_status, str(error))
    except _UsageError as error:
        message = str(error.format_message())  # type: ignore[attr-defined]  # empty for a bare `tmt`: it has shown help
        _leave(2, f"{message.rstrip('.')}; see tmt --help" if message else "")
    except (KeyboardInterrupt, typer.Abort):
        _leave(1, "interrupted")
    except BrokenPipeError:
        # The reader has gone (`tmt translate … | head`).
        _close_stdout()
        _leave(1, "")
    except OSError as error:
        # Files name themselves in refusals of their own; the one output without a name is stdout (`tmt … > full/disk`).
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            _close_stdout()
            _leave(1, f"stdout: cannot be written ({error.strerror}); free some space and run again")
        _leave(*_refused_by_system(error))
    except (MemoryError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            wanted = str(error).strip().splitlines()[-1:] or ["no more to be had"]
            _leave(
                1,
                f"out of memory ({wanted[0]}); lower search.batch_tokens or search.beam_size (in training: "
                "batch.micro_tokens), or free some memory",
            )
        # Python's words for paths that no system has, wherever they stand.
        if "null byte" in str(error) or "null character" in str(error):
            _leave(2, "a path has a NUL byte in it; correct it on the command line or in the configuration")
        if "home directory" in str(error):
            _leave(2, "~: there is no home directory (HOME is not set); set it, or name data.cache_dir without ~")
        raise
    raise SystemExit(status if isinstance(status, int) else 0)


def _refused_by_system(error: OSError) -> tuple[int, str]:
    """The status and the line for what the system refused and nobody had words of their own for."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return 1, f"too many open files ({error.strerror}); raise the limit, for example: ulimit -n 1024"
    if error.errno in (errno.ENOMEM, errno.EAGAIN):
        return 1, f"the system has no memory or no process left ({error.strerror}); free some, or set search.workers: 1"
    if error.filename is None or error.strerror is None:
        raise error
    name = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename)
    return 2, f"{name}: cannot be used ({error.strerror}); check the path and its permissions"


def _close_stdout() -> None:
    """Keep Python's shutdown from failing once more on what is left in the buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(status: int, message: str) -> NoReturn:
    if message:
        _warn(f"tmt: {message}")
    raise SystemExit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"transformer_mt {__version__}")
        raise typer.Exit


class _LongLines:
    """What a `Translator` warns with: of any number of long lines one warning, with their count, told at the end."""

    def __init__(self, at_once: bool = False) -> None:
        """``at_once``: each is told, for those who wait for each line."""
        self._at_once = at_once
        self._first = ""
        self._num_more = 0

    def __call__(self, line: str) -> None:
        if self._at_once:
            _warn(line)
        elif self._first:
            self._num_more += 1
        else:
            self._first = line

    def tell(self) -> None:
        if self._first:
            _warn(self._first + (f"; more such lines: {self._num_more:,}" if self._num_more else ""))


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Annotated[
        list[str], typer.Option("--input", help="Text file; give it again for more (.gz, .zst and .xz are read too).")
    ],
    output: Annotated[Path, typer.Option("--output", help="Where the model goes, for example tok.model.")],
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", help="Pieces; lowered where the text supports fewer.")
    ] = 10000,
    kind: Annotated[str, typer.Option("--type", help="bpe or unigram.")] = "bpe",
    overrides: SetOption = [],  # noqa: B006 (typer copies it)
) -> None:
    """Train a tokenizer on text files."""
    from transformer_mt.config.loading import tokenizer_config
    from transformer_mt.system.lines import read_lines
    from transformer_mt.system.whole_files import check_writable, replaced_file
    from transformer_mt.text.tokenizer_training import train_tokenizer

    config = tokenizer_config({"vocab_size": vocab_size, "type": kind}, overrides)
    check_writable(output)
    trained, report = train_tokenizer((line for path in inputs for line in read_lines(path)), config)
    with replaced_file(output) as file:
        file.write(trained.model)
    _warn(report)


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


@app.command()
def train(
    config: ConfigArgument,
    output: Annotated[
        Path | None, typer.Option("--output", help="Run directory.  [default: runs/NAME_OF_CONFIG]", show_default=False)
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
    from transformer_mt.config.loading import load_config

    loaded = load_config(config, overrides)
    from transformer_mt.training.loop import train as run_training

    if resume and dry_run:
        raise InputError("--resume: has no effect beside --dry-run, which looks at no run; leave one of them out")
    run_training(loaded, output or Path("runs") / config.stem, resume=resume, dry_run=dry_run)


@app.command()
def translate(
    model: ModelArgument,
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
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: text, score, tokens, alternatives.")
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Tell speed and shares of suspicious translations on stderr, at the end.")
    ] = False,
    line_buffered: Annotated[
        bool, typer.Option("--line-buffered", help="Answer each line before the next is read, as a terminal has it.")
    ] = False,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Translate text, line by line: beam search, greedy or sampling."""
    from transformer_mt.evaluation.output_checks import OutputStats
    from transformer_mt.system.lines import count_lines, write_texts
    from transformer_mt.system.whole_files import check_writable

    check_writable(output)
    if line_buffered and output != "-":
        raise InputError(f"--line-buffered: {output} appears as a whole at the end; leave out --output, or that option")
    from tqdm import tqdm

    from transformer_mt.decoding.translator import CHUNK_LINES, Translator

    options = {"beam_size": beam_size, "length_penalty": length_penalty, "n_best": n_best}
    from_options = [f"search.{key}={value}" for key, value in options.items() if value is not None]
    if tgt_lang is not None:
        from_options.append(f"search.tgt_lang={json.dumps(tgt_lang)}")  # as text: no is Norwegian
    is_typed = source == "-" and sys.stdin is not None and sys.stdin.isatty()
    chunk_lines = 1 if line_buffered or (is_typed and output == "-") else CHUNK_LINES
    has_bar = sys.stderr.isatty() and (output != "-" or (not is_typed and Path("/dev/stdout").is_file()))

    long_lines = _LongLines(at_once=chunk_lines == 1)
    translator = Translator.load(model, [*from_options, *overrides], long_lines, ensemble)
    counts, started = OutputStats(), time.monotonic()

    is_text = not json_output and n_best is None

    def texts() -> Iterator[str]:
        if is_typed:
            _warn("Type text to translate, a line and Enter at a time; Ctrl-D on an empty line ends.")
        with tqdm(
            total=count_lines(source) if has_bar else None, unit=" lines", disable=not has_bar, dynamic_ncols=True
        ) as bar:
            for number, (found, lead, end) in enumerate(_translated(translator, source, prefix, is_text, chunk_lines)):
                bar.update()
                if stats:
                    counts.count(found.source, found.text, found.num_source_tokens, len(found.tokens), found.is_cut)
                yield f"{lead}{found.text}{end}" if is_text else _formatted(found, number, json_output)

    try:
        write_texts(output, texts())
    finally:
        long_lines.tell()
    if stats:
        _warn(counts.format(time.monotonic() - started))


def _translated(
    translator: Translator, source: str, prefix: str | None, is_text: bool, chunk_lines: int
) -> Iterator[tuple[Translation, str, str]]:
    """The translations, with what stands before and behind each. Only text alone can have a line in several parts."""
    from transformer_mt.system.lines import read_line_pairs, read_lines, read_parts

    if prefix is not None:
        ours, theirs = itertools.tee(read_line_pairs(source, prefix))
        found = translator.stream((line for line, _ in ours), (start for _, start in theirs), chunk_lines)
    elif is_text:
        texts, parts = itertools.tee(read_parts(source))
        found = translator.stream((part.text for part in texts), chunk_lines=chunk_lines)
        yield from ((one, part.lead, part.end) for one, part in zip(found, parts, strict=True))
        return
    else:
        found = translator.stream(read_lines(source), chunk_lines=chunk_lines)
    yield from ((one, "", "\n") for one in found)


def _formatted(found: Translation, number: int, json_output: bool) -> str:
    """The lines of a translation as JSON, or as the list of its alternatives."""
    if json_output:
        alternatives = [alternative._asdict() for alternative in found.alternatives]
        best = {"text": found.text, "score": found.score, "tokens": found.tokens}
        return json.dumps({**best, "alternatives": alternatives}, ensure_ascii=False) + "\n"
    return "".join(f"{number} ||| {text} ||| {score:.4f}\n" for text, score, _ in found.alternatives)


@app.command()
def score(
    model: ModelArgument,
    src: Annotated[str, typer.Option("--src", help="Source text.")],
    tgt: Annotated[str, typer.Option("--tgt", help="Its translations, line by line.")],
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Print the log-probability (float32) of each given translation, its end included; blank where the source is.

    A line is scored as a whole, also where translate would split it; at most 4,096 tokens a side.
    """
    from transformer_mt.decoding.translator import Translator, take_chunk
    from transformer_mt.system.lines import read_line_pairs, write_lines

    translator = Translator.load(model, overrides, _warn)

    def lines() -> Iterator[str]:
        pairs, first_line = read_line_pairs(src, tgt), 1
        while chunk := take_chunk(pairs):
            found = translator.score([line for line, _ in chunk], [line for _, line in chunk], first_line)
            first_line += len(chunk)
            yield from ("" if log_prob is None else f"{log_prob:.6f}" for log_prob in found)

    write_lines("-", lines())


def _check_eval_options(
    model: Path | None,
    hyp: str | None,
    src: str | None,
    ref: list[str],
    overrides: list[str],
    of_corpus: str,
    sentence: bool,
) -> None:
    """Refuse what does not go together. ``of_corpus``: an option that ``--sentence`` leaves without effect, or none."""
    if hyp is not None and model is not None:
        raise InputError(
            f"eval: beside --hyp, {model} is taken for a MODEL; give one of the two, and a --ref for each reference"
        )
    if not ref or (hyp is None) == (model is None) or (model is not None) != (src is not None):
        raise InputError("eval: give --hyp F --ref F, or MODEL --src F --ref F")
    if hyp is not None and overrides:
        raise InputError("eval: --set changes how MODEL translates, --hyp is translated already; remove --set")
    if sentence and of_corpus:
        raise InputError(
            f"eval: {of_corpus} has no effect beside --sentence, which prints JSON without intervals; remove it"
        )
    if [hyp, src, *ref].count("-") > 1:
        raise InputError("stdin: cannot be two of the files; name a file for one")


@app.command("eval")
def evaluate(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Translate --src first, then score.")] = None,
    hyp: Annotated[str | None, typer.Option("--hyp", help="Translations to score; - is stdin.")] = None,
    ref: Annotated[list[str], typer.Option("--ref", help="Reference translations; give it again for more.")] = [],  # noqa: B006
    src: Annotated[str | None, typer.Option("--src", help="Source text, with MODEL.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Of bleu, chrf, ter, multi_bleu; separated by commas.  [default: bleu,chrf and, unless it takes "
            "minutes, ter]",
            show_default=False,
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="95 % confidence intervals by bootstrap resampling.")
    ] = False,
    sentence: Annotated[
        bool, typer.Option("--sentence", help="Scores of each sentence instead, one JSON object a line.")
    ] = False,
    tokenize: Annotated[
        str | None,
        typer.Option(
            "--tokenize",
            help="sacreBLEU's tokenisation for BLEU.  [default: MODEL's own, or that of the target language: zh, "
            "ja-mecab, ko-mecab, char or 13a]",
            show_default=False,
        ),
    ] = None,
    tgt_lang: Annotated[
        str | None, typer.Option("--tgt-lang", help="Of the translations: zh, ja, …; with MODEL, the one wanted.")
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Ignore case in BLEU and chrF.")] = False,
    overrides: SetOption = [],  # noqa: B006
) -> None:
    """Score translations with sacreBLEU; every number comes with its signature."""
    from transformer_mt.evaluation import scores as scoring
    from transformer_mt.system.lines import read_lines

    of_corpus = "--json" if json_output else "--confidence" if confidence else ""
    _check_eval_options(model, hyp, src, ref, overrides, of_corpus, sentence)
    chosen = None if metrics is None else [name.strip() for name in metrics.split(",")]
    if chosen is not None:
        scoring.check_metrics(chosen)
    names = [hyp or f"{model} on {src}", *ref]
    references = [list(read_lines(path)) for path in ref]
    if hyp is not None:
        hypotheses = list(read_lines(hyp))
    else:
        from transformer_mt.decoding.translator import Translator

        assert model is not None and src is not None
        sources = list(read_lines(src))
        scoring.check_streams(sources, references, [src, *ref])  # before translating for nothing
        wanted = [] if tgt_lang is None else [f"search.tgt_lang={json.dumps(tgt_lang)}"]
        long_lines = _LongLines()
        translator = Translator.load(model, [*wanted, *overrides], long_lines)
        tgt_lang = translator.tgt_lang
        tokenize = scoring.checked_tokenizer(tokenize, translator.tokenize, str(model))
        try:
            hypotheses = [translation.text for translation in translator.stream(sources)]
        finally:
            long_lines.tell()
    how: dict[str, Any] = {"tokenize": tokenize, "tgt_lang": tgt_lang, "lowercase": lowercase, "names": names}

    def warn(note: str) -> None:
        _warn(f"warning: {note}")

    if sentence:
        for scores in scoring.sentence_scores(hypotheses, references, chosen, **how, warn=warn):
            print(json.dumps(scores))
        return
    report = scoring.evaluate(hypotheses, references, chosen, **how, confidence=confidence)
    for note in report.notes:
        warn(note)
    print(json.dumps(report.as_dict(), ensure_ascii=False) if json_output else report.format())


@app.command()
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
    run_averaging(paths, output, _warn, last=last, validate=validate)
    _warn(f"written to {output}")


@app.command()
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
    _warn(f"exported {loaded.path} to {output} ({target}, {quantization})")


@plot_app.command("curves")
def plot_curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR…", help="Runs to compare; they may be going on.")],
    output: Annotated[Path, typer.Option("--output", help="The picture, for example curves.png.")],
) -> None:
    """Draw loss, perplexity, scores and learning rate of runs over their updates."""
    from transformer_mt.evaluation.curves import plot_curves

    plot_curves(runs, output)


if __name__ == "__main__":
    main()
