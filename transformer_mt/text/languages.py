"""Which language a text is in, told by a classifier (the extra ``langid``)."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from transformer_mt.errors import InputError

# What the identifier calls by another name than `langcodes`, and members of macrolanguages that this leaves alone.
_LABELS = {"nb": "no", "fil": "tl", "ki": "kik", "gn": "gug", "pbt": "ps", "quy": "qu"}
_NO_LANGUAGE = "zxx"


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            "data.clean.min_language_probability: needs a package that is not here: pip install transformer-mt[langid]"
        ) from None


@cache
def _identifier() -> Any:
    langid = _import("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


@cache
def language_label(lang: str) -> str:
    """What the identifier calls a language: en for en-US, eng and eng_Latn, ar for arb."""
    langcodes = _import("langcodes")
    labels = _identifier().labels
    label = re.split("[-_]", lang.lower())[0]
    if label not in labels:
        with contextlib.suppress(langcodes.LanguageTagError):
            label = langcodes.standardize_tag(label, macro=True)
        label = _LABELS.get(label, label)
    if label not in labels:
        raise InputError(
            f"data.clean.min_language_probability: the language '{lang}' is not one of the {len(labels)} that can be "
            "told apart; remove the rule or correct the code"
        )
    return label


def may_be_in(text: str, label: str, min_probability: float) -> bool:
    """Return whether the language of a label, as of `language_label`, is at least so probable to be that of a text."""
    best, probability = _identifier().classify(text)
    if best != label:  # `rank` alone would do, in twice the time
        probability = dict(_identifier().rank(text))[label]
    return bool(probability >= min_probability)


def likely_language(text: str, min_probability: float = 0) -> str | None:
    """Return the language that a text most likely is in; None where none is as probable, where it is in none (numbers,
    keys), or the extra `langid` is not installed."""
    try:
        best, probability = _identifier().classify(text)
    except InputError:
        return None
    return str(best) if best != _NO_LANGUAGE and probability >= min_probability else None


def probable_languages(text: str, langs: Iterable[str]) -> list[tuple[str, float]]:
    """Return how probable each of some languages is to be that of a text, the best first.

    Left out are those that the identifier does not know; all of them, where the extra `langid` is not installed.
    """
    labels = {}
    for lang in langs:
        with contextlib.suppress(InputError):
            labels[lang] = language_label(lang)
    if not labels:
        return []
    ranked = dict(_identifier().rank(text))
    return sorted(((lang, float(ranked[label])) for lang, label in labels.items()), key=lambda one: -one[1])
