"""A source of a run's configuration, as validation or test text, translated and scored as `tmt eval` would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from transformer_mt.config.data_sections import SourceConfig
from transformer_mt.config.sections import Config
from transformer_mt.data.readers.sources import read_pairs
from transformer_mt.data.sentence_pair import SentencePair
from transformer_mt.decoding.translator import Translator
from transformer_mt.errors import InputError
from transformer_mt.evaluation.scores import EvalReport, evaluate
from transformer_mt.system.lines import TOO_LONG


class ScoredSource(NamedTuple):
    """Pairs of a source, their numbers in it (from 1), what a model makes of their sources, and its scores."""

    num_pairs: int  # of the whole source
    numbers: list[int]
    pairs: list[SentencePair]
    hypotheses: list[str]
    report: EvalReport


def score_source(
    config: Config,
    source: SourceConfig,
    model: Path,
    *,
    most: int | None = None,
    is_to_stop: Callable[[], bool] = lambda: False,
) -> ScoredSource | None:
    """Translate a source with a model of its run, and score that by the run's metrics; None: it was to stop.

    Args:
        most: so many pairs, evenly from all of it; by default all of them.

    Raises:
        InputError: text that cannot be read, or scored.
    """
    src_lang, tgt_lang = config.data.languages(source)
    every = read_references(source, src_lang, tgt_lang)
    count = len(every) if most is None else min(most, len(every))
    numbers = [number * len(every) // count + 1 for number in range(count)]
    pairs = [every[number - 1] for number in numbers]
    hypotheses: list[str] = []
    with (
        Translator.load(model, settings=search_settings(config, source)) as translator,
        contextlib.closing(translator.stream([pair.src for pair in pairs])) as translations,  # type: ignore[type-var]
    ):
        for translation in translations:
            hypotheses.append(translation.text)
            if is_to_stop():
                return None
    report = evaluate(
        hypotheses,
        [[pair.tgt for pair in pairs]],
        config.eval.metrics or None,
        tokenize=config.eval.tokenize.get(tgt_lang),
        tgt_lang=tgt_lang,
    )
    return ScoredSource(len(every), numbers, pairs, hypotheses, report)


def search_settings(config: Config, source: SourceConfig) -> dict[str, str]:
    """Return the search keys that a source needs: of the languages and domains of a model, its own."""
    settings = {}
    if len(config.data.tgt_langs()) > 1:
        settings["tgt_lang"] = config.data.languages(source)[1]
    if source.tag is not None:
        settings["tag"] = source.tag
    return settings


def read_references(source: SourceConfig, src_lang: str, tgt_lang: str) -> list[SentencePair]:
    """Return the pairs of a source that a model can be scored with.

    Raises:
        InputError: text that cannot be read, or scored.
    """
    if source.model is not None:
        raise InputError(f"{source}: a side is made by a model, which is no reference")
    pairs = list(read_pairs(source, src_lang, tgt_lang))
    if any(TOO_LONG in pair for pair in pairs):
        raise InputError(f"{source}: has a line that is too long; break it into lines")
    if not any(pair.src.strip() and pair.tgt.strip() for pair in pairs):
        raise InputError(f"{source}: no pair with text on both sides; check its files")
    return pairs
