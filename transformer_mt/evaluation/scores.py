"""sacreBLEU scores that never travel without their signatures.

``bleu``, ``chrf``, ``chrf++`` and ``ter`` are the numbers of the ``sacrebleu`` command, on detokenised text.
``multi_bleu`` is what many papers print: the formula of Moses' ``multi-bleu.perl -lc`` on the white-space tokens as
given, which should be tokenised on both sides. It depends on the tokeniser, so it is comparable only with itself.
``moses_bleu`` and ``compound_bleu`` tokenise raw text first, both sides alike, as papers did: Moses' tokens lower-cased
(the published Multi30k text), or cased with compounds split at hyphens ("Attention Is All You Need", English-German).

BLEU counts words, and 13a finds them between spaces. Chinese, Japanese, Thai and their like have none: what they are
cut into follows the target language (`default_tokenize`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from transformer_mt.errors import InputError
from transformer_mt.evaluation.output_checks import more_than_text
from transformer_mt.evaluation.resampling import bootstrap_scores, statistics_of
from transformer_mt.system.console import Tell, counted, tell_nobody
from transformer_mt.system.lines import OLD_LINE_ENDS
from transformer_mt.text.scripts import UNSPACED_CHARACTER

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

    from transformer_mt.evaluation.moses import MosesTokens

METRICS = ("bleu", "chrf", "chrf++", "ter", "multi_bleu", "moses_bleu", "compound_bleu")
PAPERS = ("bleu", "moses_bleu", "compound_bleu")  # side by side: what is asked for today, and what papers print
DEFAULT_METRICS = ("bleu", "chrf", "ter")
DEFAULT_TOKENIZE = "13a"
MULTI_BLEU_LABEL = "multi-bleu (white-space tokens as given, lower-cased; not comparable with sacreBLEU)"
_BY_MOSES = ("moses_bleu", "compound_bleu")
# What scripts of papers compute: multi-bleu.perl's formula.
_OF_SCRIPTS = {
    "multi_bleu": MULTI_BLEU_LABEL,
    "moses_bleu": "BLEU of papers, lower-cased (Moses' tokens, as the published Multi30k)",
    "compound_bleu": "BLEU of papers, compounds split (Moses' tokens, hyphens apart, as WMT 2014 English-German)",
}

_CHINESE = {"zh", "zho", "chi", "cmn", "yue", "wuu", "lzh"}
_JAPANESE = {"ja", "jpn"}
_KOREAN = {"ko", "kor"}
# Written without spaces between words, and without a tokeniser in sacreBLEU: Thai, Lao, Khmer, Burmese, Tibetan,
# Dzongkha, Shan.
_BY_CHARACTER = {
    *("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur", "bo", "bod", "tib", "dz", "dzo", "shn"),
}
DOWNLOADED = ("spm", "flores101", "flores200", "spBLEU-1K")

# TER's time grows with the third power of a line's words: 7 s for 400, minutes for 1,400. Shorter lines than these
# take what they take; of longer ones, so many cubes of words are about a minute.
_LONG_FOR_TER, _MOST_FOR_TER = 200, 500_000_000


class Interval(NamedTuple):
    """A 95% confidence interval from bootstrap resampling: mean ± half_width."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.half_width:.2f}"


@dataclass(frozen=True)
class MetricScore:
    """One corpus score with everything that is needed to reproduce and to judge it."""

    name: str  # one of METRICS
    label: str  # as people write it: BLEU, chrF2, chrF2++, TER, multi-bleu (…)
    score: float  # 0 to 100, higher is better; TER: errors in percent, lower is better, may exceed 100
    signature: str
    interval: Interval | None
    details: str  # n-gram precisions, brevity penalty and lengths of a BLEU; else empty
    note: str | None  # why the number may not be what it seems

    def format(self) -> str:
        interval = f" (95%: {self.interval})" if self.interval else ""
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
    notes: tuple[str, ...] = ()  # on the text: what was left out of it, or cannot be scored well

    def score(self, name: str) -> float:
        """The number of one metric of this report."""
        return {score.name: score.score for score in self.scores}[name]

    def format(self) -> str:
        """Lines for people: ``BLEU|nrefs:1|case:mixed|… = 34.56 66.7/50.0/… (BP = …)``."""
        return "\n".join(score.format() for score in self.scores)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``{"num_sentences": N, "metrics": {"bleu": {"score": …, "signature": …, …}, …}, "notes": […]}``."""
        metrics = {score.name: score.as_dict() for score in self.scores}
        return {"num_sentences": self.num_sentences, "metrics": metrics, "notes": list(self.notes)}


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] | None = None,
    *,
    tokenize: str | None = None,
    tgt_lang: str | None = None,
    lowercase: bool = False,
    confidence: bool = False,
    num_bootstrap: int = 1000,
    seed: int = 12345,
    names: Sequence[str] | None = None,
    test_set: tuple[str, str] | None = None,
) -> EvalReport:
    """Score a corpus.

    Args:
        references: one or more streams, each as long as ``hypotheses``. A blank one is left out where the same sentence
            has another, but of ``multi_bleu`` and the others of papers, whose script does not.
        metrics: of `METRICS`; default ``bleu``, ``chrf`` and ``ter``, the last not where it would take minutes.
        tokenize: sacreBLEU's tokeniser for ``bleu`` (default `default_tokenize` of the language). That of Chinese or
            Japanese gives ``ter`` sacreBLEU's ``normalized`` and ``asian_support``, as the language does.
        tgt_lang: language of the text; ``moses_bleu`` and ``compound_bleu`` need it.
        lowercase: for BLEU, also with compounds split, and both chrF. ``ter`` ignores case by sacreBLEU's default,
            ``multi_bleu`` and ``moses_bleu`` by definition.
        confidence: add 95% intervals from ``num_bootstrap`` resamples, the same for every metric and every run.
        names: of the hypotheses and of each reference stream, for messages.
        test_set: the name and the languages of a published test set ("wmt14", "en-de"), for the signatures.

    Raises:
        InputError: unequal line counts, nothing to score, an unknown metric or tokeniser, or a string for a list.
    """
    if confidence and num_bootstrap < 2:
        raise InputError(f"num_bootstrap is {num_bootstrap}; an interval needs at least 2 resamples, usually 1000")
    built, filled, notes = prepare(hypotheses, references, metrics, tokenize, tgt_lang, lowercase, names)
    scores = []
    for name, metric in built.items():
        # sacreBLEU leaves out a reference that is None, and its signature says nrefs:var.
        refs = references if name in _OF_SCRIPTS else filled  # the script's formula takes them as they are
        statistics = statistics_of(metric, hypotheses, refs)
        score = metric._aggregate_and_compute(statistics)
        if confidence:
            metric.n_bootstrap, metric.seed = num_bootstrap, str(seed)  # for the signature
            samples = [*bootstrap_scores(metric, statistics, num_bootstrap, seed)]
            if len({type(sample.score) for sample in samples}) > 1:  # a chrF of nothing is no float32: its mean fails
                for sample in samples:
                    sample.score = float(sample.score)
            score.estimate_ci(samples)
        signature = metric.get_signature()
        if test_set is not None:
            for key, value in zip(("test", "lang"), test_set, strict=True):
                signature.update(key, value)
        scores.append(
            MetricScore(
                name=name,
                label=_OF_SCRIPTS.get(name, score.name),
                score=float(score.score),
                signature=str(signature),
                interval=Interval(float(score._mean), float(score._ci)) if confidence else None,
                details=score._verbose,
                note=_note(name, hypotheses),
            )
        )
    return EvalReport(len(hypotheses), tuple(scores), tuple(notes))


def sentence_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] | None = None,
    *,
    tokenize: str | None = None,
    tgt_lang: str | None = None,
    lowercase: bool = False,
    names: Sequence[str] | None = None,
    warn: Tell = tell_nobody,
) -> list[dict[str, float]]:
    """Score each sentence by itself: one ``{metric: score}`` a sentence; ``warn`` gets the notes on the text.

    BLEU leaves out the n-gram orders for which the sentence is too short (sacreBLEU's effective order). Sentence
    scores are for finding and sorting; their mean is not the corpus score.

    Raises:
        InputError: as ``evaluate``.
    """
    built, filled, notes = prepare(
        hypotheses, references, metrics, tokenize, tgt_lang, lowercase, names, effective_order=True
    )
    for note in notes:
        warn(note)
    rows: list[dict[str, float]] = [{} for _ in hypotheses]
    for name, metric in built.items():
        for row, hypothesis, *refs in zip(
            rows, hypotheses, *(references if name in _OF_SCRIPTS else filled), strict=True
        ):
            row[name] = float(metric.sentence_score(hypothesis, [ref for ref in refs if ref is not None]).score)
    return rows


def default_tokenize(language: str | None) -> str:
    """sacreBLEU's tokeniser for BLEU of a language, by its code (``zh``, ``zh-TW``, ``zho_Hant``); 13a where none is
    known to be better.

    Of Japanese and Korean it is MeCab's where their packages are installed, else ``char``. None of these downloads.
    """
    code = _main_code(language)
    if code in _CHINESE:
        return "zh"
    for family, mecab in ((_JAPANESE, "ja-mecab"), (_KOREAN, "ko-mecab")):
        if code in family:
            try:
                check_tokenizer(mecab)
            except InputError:
                return "char"
            return mecab
    return "char" if code in _BY_CHARACTER else DEFAULT_TOKENIZE


def _main_code(language: str | None) -> str:
    return re.split("[-_]", language or "")[0].lower()


def check_metrics(names: Sequence[str]) -> None:
    """Refuse a list of metrics before anything is done for it.

    Raises:
        InputError: there is none in it, or one that is not in `METRICS`, or that needs a package which is not there.
    """
    if not names:
        raise InputError(f"no metric asked for; name at least one of {', '.join(METRICS)}")
    for name in names:
        _check_known("metric", name, METRICS)
        if name in _BY_MOSES and find_spec("sacremoses") is None:
            raise InputError(f"{name}: sacremoses is not installed; pip install 'transformer-mt[papers]'")


def checked_tokenizer(asked: str | None, stored: str | None, model: str) -> str | None:
    """The tokeniser that was asked for, else that of a model's configuration, for which nothing is downloaded.

    The model may be somebody else's.

    Raises:
        InputError: as `check_tokenizer`, or sacreBLEU does not have the stored one's model yet.
    """
    if asked is None and stored in DOWNLOADED:
        from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
        from sacrebleu.utils import SACREBLEU_DIR

        if not os.path.exists(os.path.join(SACREBLEU_DIR, "models", os.path.basename(SPM_MODELS[stored]["url"]))):
            raise InputError(
                f"{model}: its eval.tokenize is {stored}, whose model sacreBLEU would download; if it may, give "
                f"--tokenize {stored}, else another, as --tokenize 13a"
            )
    name = asked or stored
    if name is not None:
        check_tokenizer(name)
    return name


def check_tokenizer(name: str) -> None:
    """Refuse a tokeniser for BLEU that sacreBLEU does not know, or whose own package is missing.

    Raises:
        InputError: such a name.
    """
    _build_metrics(["bleu"], tokenize=name, tgt_lang=None, is_asian=False, lowercase=False)


def prepare(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str] | None,
    tokenize: str | None,
    tgt_lang: str | None,
    lowercase: bool,
    names: Sequence[str] | None,
    effective_order: bool = False,
) -> tuple[dict[str, Metric], list[list[str | None]], list[str]]:
    """Return the metrics, the references with None for what is left out, and notes on the text."""
    check_streams(hypotheses, references, names)
    tokenize = tokenize or default_tokenize(tgt_lang)
    is_asian = _main_code(tgt_lang) in _CHINESE | _JAPANESE or tokenize in ("zh", "ja-mecab")
    chosen: Sequence[str] = DEFAULT_METRICS if metrics is None else metrics
    if isinstance(chosen, str):
        raise InputError(f"metrics: '{chosen}' is one string, a list of names is needed; write ['{chosen}']")
    filled, notes = _without_blank(hypotheses, references)
    if (other := more_than_text(hypotheses, references)) is not None:
        notes.append(f"most of the hypotheses have {other}, the references have not; the scores are those of all that")
    if metrics is None and (longest := _too_long_for_ter(hypotheses, references, is_asian)):
        chosen = [name for name in chosen if name != "ter"]
        notes.append(
            f"ter: left out, lines of up to {longest:,} words would take it minutes; ask for it in the metrics"
        )
    if _has_no_spaces(references):
        if "bleu" in chosen and tokenize in (DEFAULT_TOKENIZE, "intl"):
            notes.append(
                f"bleu: the references have no spaces between words, which the tokenisation {tokenize} needs; the "
                "score means little, give the target language (--tgt-lang) or a tokenisation (--tokenize char)"
            )
        for name in ("ter", "chrf++", "multi_bleu", *_BY_MOSES):
            if name in chosen and not (name == "ter" and is_asian):
                notes.append(
                    f"{name}: the references have no spaces between words, which it counts; the score means little"
                )
    built = _build_metrics(
        chosen,
        tokenize=tokenize,
        tgt_lang=tgt_lang,
        is_asian=is_asian,
        lowercase=lowercase,
        effective_order=effective_order,
    )
    return built, filled, notes


def _without_blank(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[list[str | None]], list[str]]:
    """The references, None for each blank one where the same sentence has another; notes with the counts."""
    filled: list[list[str | None]] = [list(stream) for stream in references]
    num_left_out = num_blank = 0
    for i, (hypothesis, *refs) in enumerate(zip(hypotheses, *references, strict=True)):
        blank = [number for number, ref in enumerate(refs) if not ref.strip()]
        if len(blank) == len(refs):
            num_blank += bool(hypothesis.strip())
            continue
        num_left_out += len(blank)
        for number in blank:
            filled[number][i] = None
    notes = []
    if num_left_out:
        total = len(hypotheses) * len(references)
        notes.append(f"references: {num_left_out:,} of {total:,} are blank where another is not, and left out")
    if num_blank:
        notes.append(
            f"references: {num_blank:,} of {len(hypotheses):,} lines have a translation but only blank references; "
            "they are scored as they are"
        )
    return filled, notes


def _too_long_for_ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]], is_asian: bool) -> int:
    """The words of the longest line where TER takes minutes, else 0."""

    def num_words(line: str) -> int:
        return len(line.split()) + (len(UNSPACED_CHARACTER.findall(line)) if is_asian else 0)

    lengths = [num_words(line) for line in hypotheses]
    long = []
    for stream in references:
        both = (max(length, num_words(line)) for length, line in zip(lengths, stream, strict=True))
        long += [length for length in both if length > _LONG_FOR_TER]
    return max(long) if sum(length**3 for length in long) > _MOST_FOR_TER else 0


def _has_no_spaces(references: Sequence[Sequence[str]]) -> bool:
    """Whether text is plainly of a script without spaces, and not cut into words either."""
    num_unspaced = num_others = num_spaces = 0
    for line in (line for stream in references for line in stream):
        unspaced, words = len(UNSPACED_CHARACTER.findall(line)), line.split()
        num_unspaced += unspaced
        num_others += sum(map(len, words)) - unspaced
        num_spaces += max(0, len(words) - 1)
    return num_unspaced > max(num_others, 3 * num_spaces)


def _build_metrics(
    names: Sequence[str],
    *,
    tokenize: str,
    tgt_lang: str | None,
    is_asian: bool,
    lowercase: bool,
    effective_order: bool = False,
) -> dict[str, Metric]:
    from sacrebleu import BLEU, CHRF, TER

    check_metrics(names)
    _check_known("tokenizer", tokenize, BLEU.TOKENIZERS)
    tokenize = "flores101" if tokenize == "spm" else tokenize  # the same by its new name; the old one makes it warn

    def build(name: str) -> Metric:
        # force: sacreBLEU's warning about tokenised text becomes a note of the score instead.
        match name:
            case "bleu":
                return BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=effective_order, force=True)
            case "chrf":
                return CHRF(lowercase=lowercase)
            case "chrf++":
                return CHRF(word_order=2, lowercase=lowercase)
            case "ter":
                return TER(normalized=is_asian, asian_support=is_asian)
            case _:
                is_lower = lowercase or name != "compound_bleu"
                metric = BLEU(
                    tokenize="none",
                    lowercase=is_lower,
                    smooth_method="none",
                    effective_order=effective_order,
                    force=True,
                )
                if name in _BY_MOSES:
                    metric.tokenizer = _moses_tokens(name, tgt_lang)
                    metric.tokenizer_signature = metric.tokenizer.signature()
                return metric

    try:
        return {name: build(name) for name in names}
    except (ImportError, RuntimeError, OSError, SystemExit) as error:
        # A tokeniser's own package or model is missing; a download that is not what it should be, sacreBLEU exits.
        reason = " ".join(str(error).split())
        if tokenize in DOWNLOADED:
            raise InputError(
                f"tokenizer '{tokenize}': sacreBLEU downloads its model at first use, which failed ({reason}); "
                "connect to the network once, or choose another, as char"
            ) from error
        raise InputError(f"tokenizer '{tokenize}' cannot be used: {reason}") from error


def _moses_tokens(name: str, tgt_lang: str | None) -> MosesTokens:
    from transformer_mt.evaluation.moses import MosesTokens

    if tgt_lang is None:
        raise InputError(f"{name}: Moses' tokenisation is that of a language; give --tgt-lang, for example de")
    is_compound = name == "compound_bleu"
    return MosesTokens(_main_code(tgt_lang), normalize=not is_compound, split_hyphens=is_compound)


def check_streams(hypotheses: Sequence[str], references: Sequence[Sequence[str]], names: Sequence[str] | None) -> None:
    """Refuse streams of different length, a string where one belongs, and nothing to score."""
    for what, stream in [("hypotheses", hypotheses), ("references", references)] + [
        (f"references[{index}]", stream) for index, stream in enumerate(references)
    ]:
        if isinstance(stream, str):
            kind = "lists of strings" if what == "references" else "strings, one a sentence"
            raise InputError(f"{what}: a string, where a list of {kind} is needed; put it into one")
    names = names or ["hypotheses", *(f"references[{index}]" for index in range(len(references)))]
    hyp_name, *ref_names = ("stdin" if name == "-" else name for name in names)
    if not references:
        raise InputError(f"{hyp_name}: no references to score against; give at least one reference file")
    num_hyp = len(hypotheses)
    for ref_name, reference in zip(ref_names, references, strict=True):
        num_ref = len(reference)
        if num_hyp != num_ref:
            both = (hyp_name, hypotheses), (ref_name, reference)
            (shorter, fewer), (longer, _) = sorted(both, key=lambda one: len(one[1]))
            remedy = "line i of both must belong to the same sentence"
            if any("\r" in line for line in fewer):
                remedy = f"the lines of {shorter} {OLD_LINE_ENDS}"
            raise InputError(
                f"{counted(num_hyp, 'line')} in {hyp_name}, {num_ref:,} in {ref_name}: line {len(fewer) + 1:,} of "
                f"{longer} is the first without a partner; {remedy}"
            )
    if num_hyp == 0:
        raise InputError(f"{hyp_name}: no lines to score; check that the file is not empty")


def _check_known(kind: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0)[0]
        raise InputError(f"unknown {kind} '{name}', nearest is '{nearest}'; choose from {', '.join(known)}")


def _note(name: str, hypotheses: Sequence[str]) -> str | None:
    """Tell text that is tokenised, or is not, against what the metric needs, by the full stops at the line ends."""
    num_stops = sum(line.rstrip().endswith(".") for line in hypotheses)
    num_spaced_stops = sum(f" {line}".rstrip().endswith(" .") for line in hypotheses)
    looks_tokenized = 2 * num_spaced_stops > num_stops
    if name in PAPERS and looks_tokenized:
        return "the hypotheses look tokenised (lines end in ' .'); detokenise both sides for a comparable score"
    if name == "multi_bleu" and num_stops and not looks_tokenized:
        return "the hypotheses do not look tokenised (lines end in 'word.'); tokenise both sides first"
    return None
