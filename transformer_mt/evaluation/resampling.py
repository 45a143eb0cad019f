"""sacreBLEU's resampling of sentences, number for number, without all samples in memory at once.

sacreBLEU keeps the statistics of each sentence in each sample, 0.1 MB a sentence. Here one sample is drawn after the
other from the same stream of random numbers.

Shapes: N sentences, K statistics of a metric, R samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric, Score

Statistics = list[list[Any]]  # by sentence: counts of n-grams, of matches, lengths

_CHUNK_LINES = 1000  # whose n-grams are in memory at once
_CHUNK_CELLS = 1 << 21  # of samples times sentences, which are drawn at once

# Draws of yes or no take 32 from a random number, and what a call leaves of one is lost.
_DRAWS_OF_A_NUMBER = 32


def statistics_of(metric: Metric, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> Statistics:
    """Return what a metric counts in each sentence; a reference that is None is left out."""
    found: Statistics = []
    nums_refs = set()
    for start in range(0, len(hypotheses), _CHUNK_LINES):
        lines = slice(start, start + _CHUNK_LINES)
        refs: Any = [stream[lines] for stream in references]
        found += metric._extract_corpus_statistics(hypotheses[lines], refs)
        nums_refs.add(metric.num_refs)
    # For the signature; -1 is "var", where sentences have different numbers.
    metric.num_refs = nums_refs.pop() if len(nums_refs) == 1 else -1
    return found


def bootstrap_scores(metric: Metric, statistics: Statistics, num_samples: int, seed: int) -> Iterator[Score]:
    """Yield the score of each sample of as many sentences, drawn with replacement."""
    table_NK = np.array(statistics, dtype=np.float32)
    generator = np.random.default_rng(seed)
    for _ in range(num_samples):
        yield metric._compute_score_from_stats(table_NK[generator.choice(len(table_NK), len(table_NK))].sum(0))


def swapped_differences(
    metric: Metric, first: Statistics, other: Statistics, num_samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """Return how far two systems' scores are apart when each sentence's translations are swapped by chance."""
    first_NK, other_NK = np.array(first, dtype=np.int64), np.array(other, dtype=np.int64)  # counts
    moved_NK = (first_NK - other_NK).astype(np.float64)  # for BLAS; whole numbers below 2^53 are exact
    generator = np.random.default_rng(seed)
    num_rows = max(1, _CHUNK_CELLS // len(first) // _DRAWS_OF_A_NUMBER) * _DRAWS_OF_A_NUMBER
    differences = []
    for start in range(0, num_samples, num_rows):
        is_kept_RN = generator.integers(2, size=(min(num_rows, num_samples - start), len(first)), dtype=bool)
        moved_RK = (is_kept_RN.astype(np.float64) @ moved_NK).astype(np.int64)
        for one_K, two_K in zip(other_NK.sum(0) + moved_RK, first_NK.sum(0) - moved_RK, strict=True):
            one, two = (metric._compute_score_from_stats(sums_K) for sums_K in (one_K, two_K))
            differences.append(abs(one.score - two.score))
    return np.array(differences)


def p_value(differences: npt.NDArray[np.float64], observed: float) -> float:
    """Return how likely a difference as large as the observed one is, by those of samples."""
    return (int(np.sum(differences > observed)) + 1) / (len(differences) + 1)
