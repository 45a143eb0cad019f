"""``tmt score`` and ``tmt eval``: what a model thinks of translations, and what they are worth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transformer_mt.cli.options import ModelOrExportArgument, SetSearchOption
from transformer_mt.cli.translate import LongLines
from transformer_mt.errors import InputError
from transformer_mt.system.console import tell

if TYPE_CHECKING:
    from transformer_mt.data.readers.published import PublishedSet
    from transformer_mt.decoding.translations import ScoredTokens
    from transformer_mt.evaluation.lengths import System


def score(
    model: ModelOrExportArgument,
    src: Annotated[str, typer.Option("--src", help="Source text.")],
    tgt: Annotated[str, typer.Option("--tgt", help="Its translations, line by line.")],
    tokens: Annotated[
        bool, typer.Option("--tokens", help="One JSON object a line instead: log_prob, tokens, log_probs.")
    ] = False,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Print the log-probability (float32) of each given translation, its end included; blank where the source is.

    A line is scored as a whole, also where translate would split it; at most 4,096 tokens a side.
    """
    from transformer_mt.decoding.translator import CHUNK_LINES, Translator, take_chunk, until_failure
    from transformer_mt.system.lines import read_line_pairs, write_lines

    translator = Translator.load(model, overrides, tell)

    def lines() -> Iterator[str]:
        failures: list[InputError] = []
        pairs, first_line = until_failure(read_line_pairs(src, tgt), failures), 1
        while chunk := take_chunk(pairs, CHUNK_LINES):
            scored = translator.score_tokens([line for line, _ in chunk], [line for _, line in chunk], first_line)
            first_line += len(chunk)
            yield from (_scored(one, tokens) for one in scored)
        if failures:  # now that the lines before it are answered
            raise failures[0]

    write_lines("-", lines())


def _scored(found: ScoredTokens | None, tokens: bool) -> str:
    log_prob = None if found is None else sum(found.log_probs)
    if not tokens:
        return "" if log_prob is None else f"{log_prob:.6f}"
    each = {"tokens": [], "log_probs": []} if found is None else found._asdict()
    return json.dumps({"log_prob": log_prob, **each}, ensure_ascii=False)


def _check_eval_options(
    model: Path | None,
    hyp: str | None,
    src: str | None,
    ref: list[str],
    test_set: str | None,
    langs: str | None,
    overrides: list[str],
    of_corpus: str,
    sentence: bool,
) -> None:
    """Refuse what does not go together. ``of_corpus``: an option that ``--sentence`` leaves without effect, or none."""
    if test_set is not None and (src is not None or ref):
        raise InputError(f"eval: --test-set {test_set} has its own source and references; remove --src and --ref")
    if langs is not None and test_set is None:
        raise InputError(
            f"eval: --langs {langs} says which languages of a --test-set are wanted; name one, or remove it"
        )
    if hyp is not None and model is not None:
        raise InputError(
            f"eval: beside --hyp, {model} is taken for a MODEL; give one of the two, and a --ref for each reference"
        )
    is_complete = test_set is not None or (bool(ref) and (model is not None) == (src is not None))
    if not is_complete or (hyp is None) == (model is None):
        raise InputError(
            "eval: give --hyp F --ref F, or MODEL --src F --ref F; --test-set NAME may stand for --src and --ref"
        )
    if hyp is not None and overrides:
        raise InputError("eval: --set changes how MODEL translates, --hyp is translated already; remove --set")
    if sentence and of_corpus:
        raise InputError(
            f"eval: {of_corpus} has no effect beside --sentence, which prints JSON without intervals; remove it"
        )
    if [hyp, src, *ref].count("-") > 1:
        raise InputError("stdin: cannot be two of the files; name a file for one")


def _chosen_metrics(metrics: str | None, papers: bool) -> list[str] | None:
    from transformer_mt.evaluation.scores import PAPERS, check_metrics

    if papers and metrics is not None:
        raise InputError(f"eval: --papers stands for --metrics {','.join(PAPERS)}; remove one of the two")
    if metrics is None and not papers:
        return None
    chosen = [*PAPERS] if metrics is None else [name.strip() for name in metrics.split(",")]
    check_metrics(chosen)
    return chosen


def _find_test_set(
    model: Path | None, name: str, langs: str | None, tgt_lang: str | None
) -> tuple[PublishedSet, str | None]:
    """Return a test set in the languages asked for, else the model's, and the language to ask of the model, if any."""
    from transformer_mt.checkpoints.manifest import CONFIG
    from transformer_mt.checkpoints.run_directory import resolve_model
    from transformer_mt.config.loading import load_part
    from transformer_mt.config.parts import DecodingConfig
    from transformer_mt.data.readers.languages import distance
    from transformer_mt.data.readers.published import language_pairs, published_set

    known = language_pairs(name)
    data = None if model is None else load_part(resolve_model(model) / CONFIG, DecodingConfig).data
    if langs is not None:
        src, dash, tgt = langs.partition("-")
        if not (src and dash and tgt) or "-" in tgt:
            raise InputError(f"--langs {langs}: give two codes with a - between them, as en-de")
    elif data is not None:
        src, tgt = data.src_lang, tgt_lang or data.tgt_lang
    else:
        raise InputError(f"eval: which languages of {name}? give --langs, one of {', '.join(known)}")
    sources, targets = ({*side} for side in zip(*(data.directions() if data else [(src, tgt)]), strict=True))
    near = {code: far for code in targets if (far := distance(tgt, code)) is not None}
    # A model that has the set's language under no usual code may call it as its author liked.
    if tgt_lang is not None and near and distance(tgt_lang, tgt) is None:
        raise InputError(f"--tgt-lang {tgt_lang}: --langs {langs} has its references in {tgt}; remove one of the two")
    found = published_set(name, src, tgt)
    if data is None:
        return found, None
    if not near or all(distance(src, code) is None for code in sources):
        # A warning: codes in a configuration are any that its author liked.
        tell(
            f"warning: test set {name} in {found.langs}: {model} was trained from {', '.join(sorted(sources))} into "
            f"{', '.join(sorted(targets))}"
        )
    if len(targets) > 1 and tgt_lang is None:
        tgt_lang = min(near, key=lambda code: (near[code], code), default=tgt)
    return found, tgt_lang


def translated(
    model: Path, sources: Sequence[str], overrides: Sequence[str], tokenize: str | None, tgt_lang: str | None
) -> tuple[list[str], str | None, str | None]:
    """Return a model's translations, and its tokenisation for BLEU and language where others are not asked for."""
    from transformer_mt.decoding.translator import Translator
    from transformer_mt.evaluation.scores import checked_tokenizer

    long_lines = LongLines()
    settings = None if tgt_lang is None else {"tgt_lang": tgt_lang}
    with Translator.load(model, overrides, long_lines, settings=settings) as translator:
        tokenize = checked_tokenizer(tokenize, translator.tokenize, str(model))
        try:
            hypotheses = [translation.text for translation in translator.stream(sources)]
        finally:
            long_lines.tell()
    return hypotheses, tokenize, translator.tgt_lang


def load_systems(
    paths: Sequence[Path],
    are_models: Sequence[bool],
    sources: Sequence[str] | None,
    references: Sequence[Sequence[str]],
    names: Sequence[str],
    overrides: Sequence[str],
    tokenize: str | None,
    tgt_lang: str | None,
) -> list[System]:
    """Return translations: those of files as they are, those of models (of ``sources``) after all files were checked.

    ``names`` are those of the sources and of each reference.
    """
    from transformer_mt.evaluation.figures import short_names
    from transformer_mt.evaluation.lengths import System
    from transformer_mt.evaluation.scores import check_streams
    from transformer_mt.system.lines import read_lines

    if sources is not None:
        check_streams(sources, references, names)
    named = list(zip(short_names(paths), paths, are_models, strict=True))
    lines = {path: list(read_lines(path)) for _, path, is_model in named if not is_model}
    for name, path, is_model in named:
        if not is_model:
            check_streams(lines[path], references, [name, *names[1:]])
    of_models = {}
    for name, path, is_model in named:
        if is_model:
            assert sources is not None
            of_models[path] = System(name, *translated(path, sources, overrides, tokenize, tgt_lang))
    # A file has no tokenisation nor language of its own: what nobody has named is that of the models beside it.
    known = {(system.tokenize, system.tgt_lang) for system in of_models.values()}
    if len(known) == 1 and tokenize is None and tgt_lang is None:
        [(tokenize, tgt_lang)] = known
    return [
        of_models[path] if is_model else System(name, lines[path], tokenize, tgt_lang) for name, path, is_model in named
    ]


def evaluate(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Translate --src first, then score.")] = None,
    hyp: Annotated[str | None, typer.Option("--hyp", help="Translations to score; - is stdin.")] = None,
    ref: Annotated[list[str], typer.Option("--ref", help="Reference translations; give it again for more.")] = [],  # noqa: B006
    src: Annotated[str | None, typer.Option("--src", help="Source text, with MODEL.")] = None,
    test_set: Annotated[
        str | None, typer.Option("--test-set", help="In place of --src and --ref: sacreBLEU's name of a set, as wmt14.")
    ] = None,
    langs: Annotated[str | None, typer.Option("--langs", help="Of the test set, as en-de; default: MODEL's.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Of bleu, chrf, chrf++, ter, multi_bleu, moses_bleu, compound_bleu; separated by commas (default: "
            "bleu,chrf and, unless it takes minutes, ter).",
            show_default=False,
        ),
    ] = None,
    papers: Annotated[
        bool,
        typer.Option("--papers", help="In place of --metrics: sacreBLEU beside BLEU as papers print it, two ways."),
    ] = False,
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
            help="sacreBLEU's tokenisation for BLEU (default: MODEL's own, or that of the target language: zh, "
            "ja-mecab, ko-mecab, char or 13a).",
            show_default=False,
        ),
    ] = None,
    tgt_lang: Annotated[
        str | None, typer.Option("--tgt-lang", help="Of the translations: zh, ja, …; with MODEL, the one wanted.")
    ] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Ignore case in BLEU and chrF.")] = False,
    overrides: SetSearchOption = [],  # noqa: B006
) -> None:
    """Score translations with sacreBLEU; every number comes with its signature."""
    from transformer_mt.evaluation import scores as scoring
    from transformer_mt.system.lines import read_lines

    of_corpus = "--json" if json_output else "--confidence" if confidence else ""
    _check_eval_options(model, hyp, src, ref, test_set, langs, overrides, of_corpus, sentence)
    chosen = _chosen_metrics(metrics, papers)
    published = None
    if test_set is not None:
        published, tgt_lang = _find_test_set(model, test_set, langs, tgt_lang)
        src, ref = published.src, published.refs
    names = [hyp or f"{model} on {src}", *ref]
    references = [list(read_lines(path)) for path in ref]
    if hyp is not None:
        hypotheses = list(read_lines(hyp))
    else:
        assert model is not None and src is not None
        sources = list(read_lines(src))
        scoring.check_streams(sources, references, [src, *ref])  # before translating for nothing
        hypotheses, tokenize, tgt_lang = translated(model, sources, overrides, tokenize, tgt_lang)
    if published is not None:
        tgt_lang = published.tgt_lang
    how: dict[str, Any] = {"tokenize": tokenize, "tgt_lang": tgt_lang, "lowercase": lowercase, "names": names}

    def warn(note: str) -> None:
        tell(f"warning: {note}")

    if sentence:
        for scores in scoring.sentence_scores(hypotheses, references, chosen, **how, warn=warn):
            print(json.dumps(scores))
        return
    how["test_set"] = published and (published.name, published.langs)
    report = scoring.evaluate(hypotheses, references, chosen, **how, confidence=confidence)
    for note in report.notes:
        warn(note)
    print(json.dumps(report.as_dict(), ensure_ascii=False) if json_output else report.format())
