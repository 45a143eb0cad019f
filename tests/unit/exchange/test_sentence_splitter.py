"""The sentence splitter of Argos packages, run as MiniSBD does, beside the sentences that `tmt` itself finds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from transformer_mt.text.sentences import split_line

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PARAGRAPHS = [
    "A dog runs. Two cats sleep! Who? He said (so it is.) No, he did not ... He ran.",
    'She said: "Yes." Then she left. “No.” And so on.',
    "Er sagte: „Ja.“ Dann ging er. „Nein“, sagte er. und dann «gut». Aus.",
    "Dr. Smith met J. R. R. Tolkien on the 3. May, approx. at noon, z.B. at home. The end.",
    "See www.foo.com. It costs 3.50 dollars, and on the 12. Day 13.40.",
    "行こう。」と言った。それから！？すぐに行った。",
    "आप कैसे हैं। मैं ठीक हूँ।",
    "مرحبا؟ نعم. كيف",
    "Он ушёл. А она — нет. «Да.» Всё.",
]


@pytest.fixture(scope="module")
def split() -> Callable[[str], list[str]]:
    from transformer_mt.exchange.sentence_splitter import sentence_splitter

    session: Any = onnxruntime.InferenceSession(sentence_splitter(), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    numbers = json.loads(properties["vocab"])["_unit2id"]
    assert json.loads(properties["config"])

    def sentences(text: str) -> list[str]:
        units = np.array([[numbers.get(character, numbers["<UNK>"]) for character in text] + [numbers["<PAD>"]]])
        [labels] = session.run(None, {"units": units, "features": np.zeros((*units.shape, 0), np.float32)})
        cuts = [0, *(np.flatnonzero(labels[0, : len(text) - 1].argmax(-1) == 2) + 1).tolist(), len(text)]
        return [text[start:end].strip() for start, end in itertools.pairwise(cuts)]

    return sentences


@pytest.mark.parametrize("paragraph", PARAGRAPHS)
def test_sentences_are_those_of_tmt(split: Callable[[str], list[str]], paragraph: str) -> None:
    expected = split_line(paragraph, lambda texts: [1 + (text == paragraph) for text in texts], 1)
    assert split(paragraph) == [part.text for part in expected.parts]


@pytest.mark.parametrize("text", ["It rained. 20 people came.", "on page 5. no capitals, none at all."])
def test_what_is_in_doubt_is_not_cut(split: Callable[[str], list[str]], text: str) -> None:
    assert split(text) == [text]


def test_a_place_does_not_depend_on_what_is_far_away(split: Callable[[str], list[str]]) -> None:
    assert split(" ".join(PARAGRAPHS[:1] * 50)) == split(PARAGRAPHS[0]) * 50
