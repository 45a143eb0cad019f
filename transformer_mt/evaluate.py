"""sacreBLEU scores that never travel without their signatures.

``bleu``, ``chrf`` and ``ter`` are the numbers of the ``sacrebleu`` command, on detokenised text. ``multi_bleu`` is
what many papers print: the formula of Moses' ``multi-bleu.perl -lc`` on the white-space tokens as given, which
should be tokenised on both sides. It depends on the tokeniser, so it is comparable only with itself.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from transformer_mt.errors import InputError

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

METRICS = ("bleu", "chrf", "ter", "multi_bleu")
MULTI_BLEU_LABEL = "multi-bleu (white-space tokens as given, lower-cased; not comparable with sacreBLEU)"


class Interval(NamedTuple):
    """A 95% confidence interval from bootstrap resampling: mean ± half_width."""

    mean: float
    half_width: float


@dataclass(frozen=True)
class MetricScore:
    """One corpus score with everything that is needed to reproduce and to judge it."""

    name: str  # one of METRICS
    label: str  # as people write it: BLEU, chrF2, TER, multi-bleu (…)
    score: float  # 0 to 100, higher is better; TER: errors in percent, lower is better, may exceed 100
    signature: str
    interval: Interval | None
    details: str  # n-gram precisions, brevity penalty and lengths of a BLEU; else empty
    note: str | None  # why the number may not be what it seems

    def format(self) -> str:
        interval = f" (95%: {self.interval.mean:.2f} ± {self.interval.half_width:.2f})" if self.interval else ""
        details = f" {self.details}" if self.details else ""
        note = f"\n  note: {self.note}" if self.note else ""
        return f"{self.label}|{self.signature} = {self.score:.2f}{interval}{details}{note}"

    def as_dict(self) -> dict[str, Any]:
        interval = self.interval._asdict() if self.interval else None
        return {
            "label": self.label,
            "score": self.score,
            "signature": self.signature,
            "interval": interval,
            "details": self.details,
            "note": self.note,
        }


@dataclass(frozen=True)
class EvalReport:
    """The scores of one set of hypotheses, in the order asked for."""

    num_sentences: int
    scores: tuple[MetricScore, ...]

    def score(self, name: str) -> float:
        """The number of one metric of this report."""
        return {score.name: score.score for score in self.scores}[name]

    def format(self) -> str:
        """Lines for people: ``BLEU|nrefs:1|case:mixed|… = 34.56 66.7/50.0/… (BP = …)``."""
        return "\n".join(score.format() for score in self.scores)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``{"num_sentences": N, "metrics": {"bleu": {"score": …, "signature": …, …}, …}}``."""
        return {"num_sentences": self.num_sentences, "metrics": {score.name: score.as_dict() for score in self.scores}}


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
    *,
    tokenize: str | None = None,
    lowercase: bool = False,
    confidence: bool = False,
    num_bootstrap: int = 1000,
    seed: int = 12345,
    names: Sequence[str] | None = None,
) -> EvalReport:
    """Score a corpus.

    Args:
        references: one or more streams, each as long as ``hypotheses``.
        tokenize: sacreBLEU's tokeniser for ``bleu`` (default 13a).
        lowercase: for ``bleu`` and ``chrf``; ``ter`` ignores case by sacreBLEU's default, ``multi_bleu`` by definition.
        confidence: add 95% intervals from ``num_bootstrap`` resamples, the same for every metric and every run.
        names: of the hypotheses and of each reference stream, for messages.

    Raises:
        InputError: unequal line counts, nothing to score, or an unknown metric or tokeniser.
    """
    check_streams(hypotheses, references, names)
    if confidence and num_bootstrap < 2:
        raise InputError(f"num_bootstrap is {num_bootstrap}; an interval needs at least 2 resamples, usually 1000")
    scores = []
    for name, metric in _build_metrics(metrics, tokenize=tokenize, lowercase=lowercase).items():
        with _bootstrap_seed(seed):
            score = metric.corpus_score(hypotheses, references, n_bootstrap=num_bootstrap if confidence else 1)
        scores.append(
            MetricScore(
                name=name,
                label=MULTI_BLEU_LABEL if name == "multi_bleu" else score.name,
                score=float(score.score),
                signature=str(metric.get_signature()),
                interval=Interval(float(score._mean), float(score._ci)) if confidence else None,
                details=score._verbose,
                note=_note(name, hypotheses),
            )
        )
    return EvalReport(len(hypotheses), tuple(scores))


def sentence_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] = ("bleu", "chrf", "ter"),
    *,
    tokenize: str | None = None,
    lowercase: bool = False,
    names: Sequence[str] | None = None,
) -> list[dict[str, float]]:
    """Score each sentence by itself: one ``{metric: score}`` a sentence.

    BLEU leaves out the n-gram orders for which the sentence is too short (sacreBLEU's effective order). Sentence
    scores are for finding and sorting; their mean is not the corpus score.

    Raises:
        InputError: as ``evaluate``.
    """
    check_streams(hypotheses, references, names)
    built = _build_metrics(metrics, tokenize=tokenize, lowercase=lowercase, effective_order=True)
    return [
        {name: float(metric.sentence_score(hypothesis, refs).score) for name, metric in built.items()}
        for hypothesis, *refs in zip(hypotheses, *references, strict=True)
    ]


def check_tokenizer(name: str) -> None:
    """Refuse a tokeniser for BLEU that sacreBLEU does not know, or whose own package is missing.

    Raises:
        InputError: such a name.
    """
    _build_metrics(["bleu"], tokenize=name, lowercase=False)


def _build_metrics(
    names: Sequence[str], *, tokenize: str | None, lowercase: bool, effective_order: bool = False
) -> dict[str, Metric]:
    from sacrebleu import BLEU, CHRF, TER

    if not names:
        raise InputError(f"no metric asked for; name at least one of {', '.join(METRICS)}")
    for name in names:
        _check_known("metric", name, METRICS)
    if tokenize is not None:
        _check_known("tokenizer", tokenize, BLEU.TOKENIZERS)

    def build(name: str) -> Metric:
        # force: sacreBLEU's warning about tokenised text becomes a note of the score instead.
        match name:
            case "bleu":
                return BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=effective_order, force=True)
            case "chrf":
                return CHRF(lowercase=lowercase)
            case "ter":
                return TER()
            case _:
                return BLEU(
                    tokenize="none", lowercase=True, smooth_method="none", effective_order=effective_order, force=True
                )

    try:
        return {name: build(name) for name in names}
    except (ImportError, RuntimeError, OSError) as error:  # a tokeniser's own package or model is missing
        raise InputError(f"tokenizer '{tokenize}' cannot be used: {' '.join(str(error).split())}") from error


def check_streams(hypotheses: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str] | None) -> None:
    """Refuse streams of different length, and nothing to score."""
    hyp_name, *ref_names = names or ["hypotheses", *(f"references[{index}]" for index in range(len(references)))]
    if not references:
        raise InputError(f"{hyp_name}: no references to score against; give at least one reference file")
    num_hyp = len(hypotheses)
    for ref_name, reference in zip(ref_names, references, strict=True):
        num_ref = len(reference)
        if num_hyp != num_ref:
            raise InputError(
                f"{num_hyp} lines in {hyp_name}, {num_ref} in {ref_name}: line {min(num_hyp, num_ref) + 1} of "
                f"{hyp_name if num_hyp > num_ref else ref_name} is the first without a partner; "
                f"line i of both must belong to the same sentence"
            )
    if num_hyp == 0:
        raise InputError(f"{hyp_name}: no lines to score; check that the file is not empty")


def _check_known(kind: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0)[0]
        raise InputError(f"unknown {kind} '{name}', nearest is '{nearest}'; choose from {', '.join(known)}")


@contextlib.contextmanager
def _bootstrap_seed(seed: int) -> Iterator[None]:
    """The environment is the only place from which sacreBLEU takes the seed of its bootstrap."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before


def _note(name: str, hypotheses: Sequence[str]) -> str | None:
    """Tell text that is tokenised, or is not, against what the metric needs, by the full stops at the line ends."""
    num_stops = sum(line.rstrip().endswith(".") for line in hypotheses)
    num_spaced_stops = sum(f" {line}".rstrip().endswith(" .") for line in hypotheses)
    looks_tokenized = 2 * num_spaced_stops > num_stops
    if name == "bleu" and looks_tokenized:
        return "the hypotheses look tokenised (lines end in ' .'); detokenise both sides for a comparable score"
    if name == "multi_bleu" and num_stops and not looks_tokenized:
        return "the hypotheses do not look tokenised (lines end in 'word.'); tokenise both sides first"
    return None
