"""Resampling beside sacreBLEU's own: the same numbers, whatever is held in memory at once, and little of that."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from sacrebleu import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, _bootstrap_resample

from transformer_mt.evaluation import resampling
from transformer_mt.evaluation.resampling import bootstrap_scores, p_value, statistics_of, swapped_differences

DRAW = random.Random(1)


def lines(count: int) -> list[str]:
    return [" ".join(DRAW.choices(["der", "Hund", "rennt", "weit", "."], k=DRAW.randint(1, 9))) for _ in range(count)]


REFERENCE, FIRST, OTHER = lines(45), lines(45), lines(45)
SECOND: list[str | None] = [line if number % 3 else None for number, line in enumerate(lines(45))]
METRICS: dict[str, Callable[[], Metric]] = {"BLEU": BLEU, "chrF2++": lambda: CHRF(word_order=2), "TER": TER}


@pytest.fixture(params=[(1 << 21, 1000), (1, 1), (45 * 70, 7)], autouse=True)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, num_lines = request.param
    monkeypatch.setattr(resampling, "_CHUNK_CELLS", cells)
    monkeypatch.setattr(resampling, "_CHUNK_LINES", num_lines)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("references", [[REFERENCE], [REFERENCE, SECOND]], ids=["one", "some with two"])
def test_statistics_and_bootstrap_are_sacrebleus(name: str, references: Sequence[Sequence[str | None]]) -> None:
    metric, theirs = METRICS[name](), METRICS[name]()
    refs: Any = references
    expected = theirs._extract_corpus_statistics(FIRST, refs)
    statistics = statistics_of(metric, FIRST, references)
    assert statistics == expected and str(metric.get_signature()) == str(theirs.get_signature())
    _, samples = _bootstrap_resample(expected, theirs, 50)
    found = [score.score for score in bootstrap_scores(metric, statistics, 50, 12345)]
    assert found == [sample.score for sample in samples] and len({*found}) > 20


@pytest.mark.parametrize("name", ["BLEU", "chrF2++"])
def test_randomisation_is_sacrebleus(name: str) -> None:
    metric: Metric = METRICS[name]()
    named: Any = [("first", FIRST), ("other", OTHER)]
    _, found = PairedTest(named, {name: metric}, [REFERENCE], test_type="ar", n_samples=300)()
    scores: Any = found[name]
    first, other = (statistics_of(metric, one, [REFERENCE]) for one in (FIRST, OTHER))
    differences = swapped_differences(metric, first, other, 300, 12345)
    p = p_value(differences, abs(scores[0].score - scores[1].score))
    assert p == scores[1].p_value and 0.01 < p < 0.99


def test_memory_does_not_grow_with_the_samples() -> None:
    metric = CHRF(word_order=2)
    statistics = np.random.default_rng(1).integers(1, 99, size=(4000, 24)).tolist()
    tracemalloc.start()
    for _ in bootstrap_scores(metric, statistics, 60, 1):
        pass
    swapped_differences(metric, statistics, statistics[::-1], 64, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6, "60 samples at once are 23 MB"
