"""A splitter of paragraphs into sentences, as MiniSBD runs it for Argos Translate (from 1.11 on).

MiniSBD's own models are trained, one a language, and fetched from a network. This one is written: a convolution of one
layer whose filters are patterns of characters. It knows less than `transformer_mt.text.sentences`, whose marks and
abbreviations it has; where a sentence end is in doubt it does not cut either.

Shapes: B paragraphs, L characters, P patterns, C numbers of characters, K places of a pattern.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper, parser

from transformer_mt.text.sentences import ABBREVIATIONS, CLOSING, CLOSING_HERE, DOUBTFUL, OPENING, SURE

_LETTERS = "".join(filter(str.isalpha, map(chr, range(0x530))))  # Latin, Greek, Cyrillic: scripts with capitals
_LOWER = "".join(filter(str.islower, _LETTERS))
_DIGITS = "0123456789"
_CLOSES, _CLOSES_HERE, _OPENS = (marks.replace("\\", "") for marks in (CLOSING, CLOSING_HERE, OPENING))
_BEFORE, _AFTER = 1 + max(map(len, ABBREVIATIONS)), 3  # the characters that a pattern looks at
_NUM_SPECIALS = 2  # <PAD> and <UNK>, which fit no pattern

# A label says what ends behind a character: nothing, a word (never here), a sentence. The highest one counts.
_GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17]>
splitter (int64[B, L] units, float[B, L, F] features) => (float[B, L, 3] labels)
{{
    characters = Gather(one_hot_CC, units)
    columns = Transpose<perm = [0, 2, 1]>(characters)
    matches = Conv<pads = [{_BEFORE}, {_AFTER}]>(columns, filters_PCK, bias_P)
    fitting = Relu(matches)
    rows = Transpose<perm = [0, 2, 1]>(fitting)
    votes = MatMul(rows, votes_P3)
    labels = Add(votes, nothing_3)
}}
"""


@dataclass(frozen=True)
class _Pattern:
    """Where it fits, a sentence ends, or does not whatever the others say.

    Attributes:
        present: distance from the character behind which that is -> one of these stands there.
        absent: likewise, and none of these does.
    """

    present: dict[int, str]
    absent: dict[int, str] = field(default_factory=dict)
    is_end: bool = False


def sentence_splitter() -> bytes:
    """Return the model's file: a graph of ONNX, with the numbers of characters beside it."""
    patterns = list(_patterns())
    numbers, filters_PCK = _filters(patterns)
    num_present_P = [len(pattern.present) for pattern in patterns]
    votes_P = [1 if pattern.is_end else -len(patterns) for pattern in patterns]
    weights: dict[str, npt.NDArray[Any]] = {
        "one_hot_CC": np.eye(filters_PCK.shape[1]),
        "filters_PCK": filters_PCK,
        "bias_P": 1 - np.array(num_present_P),  # 1 is left where all is as the pattern has it
        "votes_P3": np.stack([np.zeros(len(patterns)), np.zeros(len(patterns)), votes_P], axis=1),
        "nothing_3": np.array([0.5, 0, 0]),
    }
    model = parser.parse_model(_GRAPH)
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    vocabulary = {"_unit2id": {"<PAD>": 0, "<UNK>": 1, **numbers}}
    config = {"max_seqlen": 1 << 30}  # a paragraph is read in one piece
    properties = {"lang_code": "mul", "config": json.dumps(config), "vocab": json.dumps(vocabulary)}
    helper.set_model_props(model, properties)
    content: bytes = model.SerializeToString()
    return content


def _patterns() -> Iterator[_Pattern]:
    for num_closing in range(3):
        closing = range(1 - num_closing, 1)
        sure = {-num_closing: SURE} | dict.fromkeys(closing, _CLOSES)
        goes_on = SURE + DOUBTFUL + _CLOSES + "と" * (num_closing > 0)  # 「行こう。」と言った。
        yield _Pattern(sure, {1: goes_on}, is_end=True)
        doubtful = {-num_closing: DOUBTFUL} | dict.fromkeys(closing, _CLOSES_HERE) | {1: " "}
        begins_none = SURE + DOUBTFUL + _CLOSES + _OPENS + _LOWER + _DIGITS + ",;:"
        yield _Pattern(doubtful, {2: begins_none}, is_end=True)
        yield _Pattern(doubtful | {2: _OPENS}, {3: begins_none}, is_end=True)
    for text in (_LETTERS, _DIGITS):  # J. R. R. Tolkien, z.B., am 3. Mai
        yield _Pattern({0: ".", -1: text}, {-2: _LETTERS + _DIGITS})
    yield _Pattern({0: ".", -1: _DIGITS, -2: _DIGITS}, {-3: _LETTERS + _DIGITS})
    for word in ABBREVIATIONS:
        places = range(-len(word), 1)
        yield _Pattern(dict(zip(places, f"{word}.", strict=True)), {-len(word) - 1: _LETTERS})


def _filters(patterns: list[_Pattern]) -> tuple[dict[str, int], npt.NDArray[np.float32]]:
    """Character -> number, the same where no pattern tells them apart, and the filters (P, C, K) of these numbers."""
    texts = (text for pattern in patterns for places in (pattern.present, pattern.absent) for text in places.values())
    characters = sorted({character for text in texts for character in text})
    place_of = {character: i for i, character in enumerate(characters)}
    filters = np.zeros((len(patterns), len(characters), _BEFORE + 1 + _AFTER), np.float32)
    for filter_, pattern in zip(filters, patterns, strict=True):
        for weight, places in ((1, pattern.present), (-1, pattern.absent)):
            for distance, text in places.items():
                filter_[[place_of[character] for character in text], _BEFORE + distance] = weight
    different, numbers = np.unique(filters, axis=1, return_inverse=True)
    specials = np.zeros((len(patterns), _NUM_SPECIALS, filters.shape[2]), np.float32)
    known = dict(zip(characters, (numbers.ravel() + _NUM_SPECIALS).tolist(), strict=True))
    return known, np.concatenate([specials, different], axis=1)
