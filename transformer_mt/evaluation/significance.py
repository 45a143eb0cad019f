"""Whether a difference in score may be chance: sacreBLEU's paired tests of each system against the first.

The bootstrap (Koehn 2004) draws sentences again and again and looks how the difference varies; approximate
randomisation (Riezler and Maxwell 2005) swaps the two systems' translations of half of the sentences and looks how
often that makes a larger difference. p says how likely so large a difference is between equally good systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_mt.evaluation.lengths import System
from transformer_mt.evaluation.resampling import (
    Statistics,
    bootstrap_scores,
    p_value,
    statistics_of,
    swapped_differences,
)
from transformer_mt.evaluation.scores import Interval, check_streams, prepare

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

METRICS = ("bleu", "chrf", "chrf++")
LEVEL = 0.05  # of p: below, a difference is not taken for chance
NUM_BOOTSTRAP, NUM_RANDOMISATIONS = 1_000, 10_000
_SEED = 12345


@dataclass(frozen=True)
class PairedScore:
    """A system's score, and its difference to the first system's.

    The p values are None where there is no difference to explain: of the first system, and of equal scores.
    """

    score: float
    interval: Interval
    difference: float
    p_bootstrap: float | None
    p_randomisation: float | None
    num_differing: int  # sentences whose translation is not the first system's

    @property
    def is_clear(self) -> bool:
        """Return whether both tests find the difference too large for chance.

        sacreBLEU's randomisation does not count equal differences. One in 2^(n - 1) swaps of n sentences leaves the
        difference as it is, which is added here: few sentences prove nothing, whatever they are.
        """
        if self.p_bootstrap is None or self.p_randomisation is None:
            return False
        return self.p_bootstrap < LEVEL and self.p_randomisation + 2 ** (1 - self.num_differing) < LEVEL


@dataclass(frozen=True)
class PairedScores:
    """The scores of all systems by one metric, with the signatures of both tests."""

    label: str
    bootstrap_signature: str
    randomisation_signature: str
    systems: list[PairedScore]

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        systems = [
            {"name": name, **asdict(one), "interval": one.interval._asdict()}
            for name, one in zip(names, self.systems, strict=True)
        ]
        return {**asdict(self), "systems": systems}


def paired_scores(
    systems: Sequence[System], references: Sequence[Sequence[str]], ref_names: Sequence[str] | None = None
) -> tuple[dict[str, PairedScores], list[str]]:
    """Score systems and test their differences to the first: 1,000 resamples, 10,000 randomisations, a fixed seed.

    All are cut into words as the first one asks for.

    Returns:
        The scores by each of `METRICS`, and notes on the text.

    Raises:
        InputError: as `scores.evaluate`.
    """
    first, *others = systems
    ref_names = ref_names or [f"references[{i}]" for i in range(len(references))]
    for system in others:
        check_streams(system.hypotheses, references, [system.name, *ref_names])
    built, filled, notes = prepare(
        first.hypotheses, references, METRICS, first.tokenize, first.tgt_lang, False, [first.name, *ref_names]
    )
    num_differing = [
        sum(own != theirs for own, theirs in zip(system.hypotheses, first.hypotheses, strict=True))
        for system in systems
    ]
    statistics = ([statistics_of(metric, one.hypotheses, filled) for one in systems] for metric in built.values())
    found = {
        name: _tested(metric, of_systems, num_differing)
        for (name, metric), of_systems in zip(built.items(), statistics, strict=True)
    }
    return found, notes


def _tested(metric: Metric, statistics: Sequence[Statistics], num_differing: Sequence[int]) -> PairedScores:
    """Return the scores of systems by one metric, each tested against the first."""
    from sacrebleu.significance import estimate_ci

    scored = [metric._aggregate_and_compute(own) for own in statistics]
    sampled = [
        np.array([score.score for score in bootstrap_scores(metric, own, NUM_BOOTSTRAP, _SEED)]) for own in statistics
    ]
    systems = []
    for number, samples in enumerate(sampled):
        difference = float(scored[number].score - scored[0].score)
        p_bootstrap = p_randomisation = None
        if difference:  # of equal systems sacreBLEU says 1 / 1,001, as if the difference of 0 were sure
            apart = np.abs(samples - sampled[0])
            p_bootstrap = p_value(apart - apart.mean(), abs(difference))
            swapped = swapped_differences(metric, statistics[0], statistics[number], NUM_RANDOMISATIONS, _SEED)
            p_randomisation = p_value(swapped, abs(difference))
        mean, half_width = map(float, estimate_ci(samples))
        interval = Interval(mean, half_width)
        systems.append(
            PairedScore(
                float(scored[number].score), interval, difference, p_bootstrap, p_randomisation, num_differing[number]
            )
        )

    def signature(test: str, num_samples: int) -> str:
        own = metric.get_signature()
        own.update("seed", str(_SEED))
        own.update(test, num_samples)
        return str(own)

    signatures = signature("bs", NUM_BOOTSTRAP), signature("ar", NUM_RANDOMISATIONS)
    return PairedScores(scored[0].name, *signatures, systems)


def verdict(scores: Sequence[PairedScores], names: Sequence[str], number: int) -> str:
    """Return a sentence that says whether a system is better than the first, and whether that may be chance."""
    labels_of: dict[tuple[str, str], list[str]] = {}
    for of_metric in scores:
        one = of_metric.systems[number]
        relation, chance = "level with", ""
        if one.difference:
            relation = "better than" if one.difference > 0 else "worse than"
            chance = ", hardly by chance" if one.is_clear else ", which may be chance"
        labels_of.setdefault((relation, chance), []).append(of_metric.label)
    parts = [
        f"{relation} {names[0]} in {' and '.join(filter(None, [', '.join(labels[:-1]), labels[-1]]))}{chance}"
        for (relation, chance), labels in labels_of.items()
    ]
    return f"{names[number]} is {'; it is '.join(parts)}."
