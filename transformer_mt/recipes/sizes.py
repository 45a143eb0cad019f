"""Shape, vocabulary, batch, rate and steps by the size of a corpus.

What is measured is in ``docs/results.md`` ("What tmt init writes"): tiny on 2,000 to 29,000 pairs, and the beginning of
runs of the next shape on 165,000 and 469,000. Other sizes follow from it, from the paper, and from what others report;
each choice says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.config.sections import TrainConfig
from transformer_mt.recipes.writing import Choice, Choices
from transformer_mt.training.run_log import format_seconds

# What a model sees grows with the root of its text. Multi30k's recipes: 42 epochs of 470,000 tokens with Muon, 53 with
# Adam. The paper's base: 100,000 updates of 25,000 tokens, of 4.5 million pairs with some 130 million.
BY_ROOT_WITH_MUON = 42 * math.sqrt(470_000)
BY_ROOT_WITH_ADAM = 53 * math.sqrt(470_000)
_BY_ROOT_IN_PAPER = 100_000 * 25_000 / math.sqrt(130_000_000)

# Target tokens of a text, of which the borders between sizes are made: what 5,000 everyday sentences have (of twice as
# many the larger choices are better, docs/results.md), 100,000 of talks, 300,000 and a million of longer sentences.
_LITTLE, _ENOUGH_FOR_SMALL, _ENOUGH_FOR_BASE, _AS_IN_PAPER = 45_000, 1_500_000, 6_000_000, 30_000_000
_CHARACTERS_OF_TOKEN = 4.4  # in 10,000 pieces of English, German or French; of Chinese, Japanese or Korean there are …
_SYLLABLES_OF_TOKEN = 1.7

COVERAGE = 0.9995  # of a text, by the characters that get pieces

BY_ROUNDING = 1.15  # as much longer a run may be for the sake of round numbers
# Of a run that there is no time for, the least that a shape is taken for: in a sixth of it 6 + 6 layers are far ahead
# of 4 + 4 that saw as much (165,000 pairs, docs/results.md). What has no more than half of its steps is short.
_LEAST_SHARE = 1 / 6
_SHORT_RUN = 0.5

_SECONDS_AT_RISK = 600  # between checkpoints
MOST_TOO_LONG = 0.005  # of the pairs, for the default limits
_NEARLY_FULL = 0.9  # of a step that has fewer target tokens than it may


@dataclass(frozen=True, eq=False)
class Shape:
    """A model's size, and why a corpus gets it."""

    keys: dict[str, Any]  # of the section model
    why: str


TINY = Shape({"preset": "tiny"}, "4 + 4 layers, 128 wide: enough for the 29,000 pairs of Multi30k (docs/results.md)")
SMALL = Shape(
    {"preset": "tiny", "d_model": 256, "d_ff": 1024, "num_encoder_layers": 6, "num_decoder_layers": 6},
    "6 + 6 layers, 256 wide: what JoeyNMT takes for the 160,000 pairs of IWSLT 2014",
)
BASE = Shape({"preset": "base"}, "the paper's base; with several GPUs and tens of millions of pairs, try big")


_SEARCH = [
    Choice("beam_size", 5, "beam 5 and this penalty of length, as with Multi30k (docs/results.md)"),
    Choice("length_penalty", 1.0),
    Choice("length_penalty_form", "power"),
]


@dataclass(frozen=True)
class Corpus:
    """What the choices depend on."""

    num_pairs: int  # that training will see
    src_tokens: float  # of a pair in the mean, </s> included
    tgt_tokens: float
    estimated_size: float | None = None  # target tokens in all, as they were estimated before there were pieces

    @property
    def tokens_of_epoch(self) -> float:
        """Those of the targets."""
        return self.num_pairs * self.tgt_tokens

    @property
    def size(self) -> float:
        """What the borders are compared with: the same number before and after there are pieces."""
        return self.tokens_of_epoch if self.estimated_size is None else self.estimated_size

    @property
    def is_little(self) -> bool:
        return self.size < _LITTLE

    def labels_of(self, max_tokens: int) -> float:
        """Return how many target tokens a step has: where sources are longer, these fill it; each epoch ends with one
        that has what is left."""
        when_full = max_tokens * min(1.0, self.tgt_tokens / self.src_tokens)
        return self.tokens_of_epoch / math.ceil(self.tokens_of_epoch / when_full)

    def by_root(self, num_steps: float, max_tokens: int) -> float:
        """Return how many target tokens so many steps see, by the root of those that there are."""
        return num_steps * self.labels_of(max_tokens) / math.sqrt(self.tokens_of_epoch)


def tokens_of(characters: float, has_syllables: bool) -> float:
    """Return about how many tokens a side has, </s> included, before there are pieces."""
    return characters / (_SYLLABLES_OF_TOKEN if has_syllables else _CHARACTERS_OF_TOKEN) + 1


def shapes_for(corpus: Corpus) -> list[Shape]:
    """Return the shapes that a corpus has text enough for, the largest first."""
    if corpus.size < _ENOUGH_FOR_SMALL:
        return [TINY]
    return [SMALL, TINY] if corpus.size < _ENOUGH_FOR_BASE else [BASE, SMALL, TINY]


def vocabulary_for(shape: Shape, corpus: Corpus, num_characters: int, *, has_syllables: bool) -> list[Choice]:
    """Return the keys of the tokenizer.

    Args:
        num_characters: different ones that make up `COVERAGE` of the text.
        has_syllables: it is written in characters of which there are thousands, as Chinese, Japanese and Korean are.
    """
    if corpus.is_little:
        size, why = 2000, "few pieces for little text, each seen often enough; 1,000 are worse (docs/results.md)"
    elif corpus.size < _ENOUGH_FOR_BASE:
        size, why = 10_000, "one vocabulary for both languages; Multi30k does worse with 4,000 pieces (docs/log.md)"
    elif corpus.size < _AS_IN_PAPER or shape is not BASE:
        size, why = 16_000, "one vocabulary for both languages; more text has more words that are worth a piece"
    else:
        size, why = 32_000, "one vocabulary for both languages, of nearly the paper's size"
    if size < 4 * num_characters:
        size = max(size, math.ceil(4 * num_characters / 1000) * 1000)
        why = f"four times the {num_characters:,} characters that the text is written in, so that words get pieces too"
    choices = [Choice("vocab_size", size, why)]
    if has_syllables:
        why = "for text of thousands of characters: the rarest are spelled by bytes, as in configs/l10n_en_ko.yaml"
        choices = [Choice("type", "unigram", why), *choices, Choice("character_coverage", COVERAGE)]
    if corpus.is_little:
        key = ("unigram_alpha", 0.2) if has_syllables else ("bpe_dropout", 0.1)
        choices.append(
            Choice(
                *key, "words are cut otherwise in each epoch, which makes more of little text (Provilkov et al. 2020)"
            )
        )
    return choices


def sizes_for(shape: Shape, corpus: Corpus, most_steps: float = math.inf) -> Choices:
    """Return model, batch and optimiser of a shape on a corpus, and how long it is trained.

    Args:
        most_steps: that there is time for. Runs are cut to them, down to a sixth; that of the paper's base down to what
            the rule for less text gives, and with less text than the paper's it is not cut.
    """
    is_papers = shape is BASE and corpus.size >= _AS_IN_PAPER
    max_tokens, batch_why = _batch(shape, corpus)
    length = _length_for(shape, corpus, corpus.by_root(most_steps, max_tokens))
    num_validations = 50 if is_papers else 12
    max_steps, eval_steps = steps_for(corpus, max_tokens, length.by_root, num_validations)
    norm = Choice("norm", "pre", "learns faster than post, the paper's, which Hugging Face's Marian asks for")
    if (share := corpus.tgt_tokens / corpus.src_tokens) < _NEARLY_FULL:
        batch_why += f". Sources are longer here and fill a step with about {share * max_tokens:,.0f} of them"
    dropout, dropout_why = _dropout(shape, corpus, length.is_short)
    return {
        "model": [
            *_with_why(shape.keys, shape.why),
            *([] if shape is BASE else [norm]),
            Choice("dropout", dropout, dropout_why),
        ],
        "batch": [Choice("max_tokens", max_tokens, batch_why)],
        "optim": _optimiser(shape, max_tokens, max_steps, is_papers, length.is_short),
        "train": [
            Choice("max_steps", max_steps, f"{_seen(corpus, max_tokens, max_steps)}: {length.why}"),
            Choice("eval_steps", eval_steps, f"{max_steps // eval_steps} validations"),
            *(
                [Choice("patience", 10, "ends the run after ten validations without a better score")]
                if is_papers
                else []
            ),
        ],
        **({} if shape is BASE else {"search": _SEARCH}),
    }


def steps_for(corpus: Corpus, max_tokens: int, by_root: float, num_validations: int) -> tuple[int, int]:
    """Return the steps of a run, of which each sees some target tokens, and those between two validations.

    Args:
        by_root: target tokens of the run by the root of the corpus's.
    """
    wanted = by_root * math.sqrt(corpus.tokens_of_epoch) / corpus.labels_of(max_tokens)
    eval_steps = _rounded(wanted / num_validations)
    return eval_steps * num_validations, eval_steps


class Length(NamedTuple):
    """How long a run is."""

    by_root: float  # target tokens of it, by the root of the corpus's
    is_short: bool
    why: str


def length_of(usual: float, least: float, there_is_time_for: float, rule: str) -> Length:
    """Return the length of a run, cut to what there is time for but to no less than the least.

    Args:
        usual, least, there_is_time_for: target tokens of it, by the root of the corpus's.
        rule: what the usual ones are.
    """
    if usual <= max(least, there_is_time_for * BY_ROUNDING):
        return Length(usual, False, rule)
    by_root = max(least, there_is_time_for)
    limit = "as there is time for" if there_is_time_for * BY_ROUNDING >= least else "the least that init writes"
    why = f"{limit}; {rule}, would be {usual / by_root:.1f} times as much"
    return Length(by_root, by_root <= usual * _SHORT_RUN, why)


def _length_for(shape: Shape, corpus: Corpus, there_is_time_for: float) -> Length:
    in_proportion = "in proportion to the root of the text"
    if shape is BASE and corpus.size >= _AS_IN_PAPER:
        rule = f"the paper's 19 epochs of 130 million, {in_proportion}"
        length = length_of(_BY_ROOT_IN_PAPER, BY_ROOT_WITH_ADAM, there_is_time_for, rule)
        return length._replace(why=f"{length.why}; patience may end it sooner")
    usual = BY_ROOT_WITH_ADAM if shape is BASE else BY_ROOT_WITH_MUON
    rule = f"Multi30k's {usual / math.sqrt(470_000):.0f} epochs of 0.47 million, {in_proportion}"
    return length_of(usual, usual if shape is BASE else usual * _LEAST_SHARE, there_is_time_for, rule)


def _seen(corpus: Corpus, max_tokens: int, max_steps: int) -> str:
    num_labels = max_steps * corpus.labels_of(max_tokens)
    return f"{_count(num_labels / corpus.tokens_of_epoch)} epochs, {_count(num_labels / 1e6)} million target tokens"


def _with_why(keys: dict[str, Any], why: str) -> list[Choice]:
    return [Choice(key, value, "" if number else why) for number, (key, value) in enumerate(keys.items())]


def _batch(shape: Shape, corpus: Corpus) -> tuple[int, str]:
    if corpus.is_little:
        return 512, "target tokens of a step: little text needs many small steps (docs/results.md)"
    if shape is BASE:
        if corpus.size < _AS_IN_PAPER:
            return 8192, "target tokens of a step, between those of small corpora and the paper's 25,000 (not measured)"
        return 25_000, "target tokens of a step, as in the paper"
    if shape is TINY and corpus.size < _ENOUGH_FOR_BASE:
        return 2048, "target tokens of a step: better than 4,096 in the same time with Multi30k (docs/results.md)"
    return 4096, "target tokens of a step; more of them for more text, or a wider model (not measured)"


def _dropout(shape: Shape, corpus: Corpus, is_short: bool) -> tuple[float, str]:
    if corpus.is_little:
        return 0.2, "better than 0.1 and 0.3 with 2,000 pairs (docs/results.md)"
    if shape is not BASE:
        if corpus.size >= _ENOUGH_FOR_BASE:
            return 0.1, "less than for less text, of which each pair is seen more often (not measured)"
        if shape is SMALL and is_short:
            return 0.1, "better than 0.2 on 165,000 pairs in a sixth and a third of the steps (docs/results.md)"
        if shape is SMALL:
            return 0.2, "better than 0.3 on 165,000 pairs; for half of the steps or fewer 0.1 (docs/results.md)"
        if is_short:
            return 0.2, "better than 0.1 with Multi30k in half of the steps and fewer (docs/results.md)"
        return 0.3, "better than 0.2 with Multi30k, by 0.6 BLEU of validation text (docs/results.md)"
    if corpus.size < _AS_IN_PAPER:
        return 0.2, "between the 0.3 of small corpora and the paper's 0.1 (not measured)"
    return 0.1, "the paper's for base"


def _optimiser(shape: Shape, max_tokens: int, max_steps: int, is_papers: bool, is_short: bool) -> list[Choice]:
    clips = Choice("clip_norm", 1.0, "against sudden jumps of the loss")
    if is_papers:
        return [
            Choice("schedule", "inverse_sqrt", "the paper's schedule, for a run whose length patience decides"),
            Choice("lr", 0.0007, "the paper's peak for base, 512^-0.5 · 4000^-0.5"),
            Choice("warmup_steps", 4000, "the paper's"),
            clips,
        ]
    falls = Choice(
        "schedule", "cosine", "falls to 0 at the last step: no patience needed, and averaging brings nothing"
    )
    if shape is BASE:
        return [
            falls,
            Choice("lr", 0.0007, "the paper's peak for base (with Adam: Muon is not measured at this size)"),
            Choice("warmup_steps", min(4000, _rounded(max_steps / 6)), "a sixth of the run, at most the paper's"),
            clips,
        ]
    rate = {512: 0.002, 2048: 0.004, 4096: 0.006}[max_tokens]
    why = "by the tokens of a step: 0.002 with 512, 0.004 with 2,048, 0.006 with 4,096 (docs/results.md)"
    if shape is SMALL:
        rate /= 2
        why = "twice as wide as tiny: half its rate; 0.006 is no better, 0.0015 is worse (docs/results.md)"
    decay: list[Choice] = []
    if is_short:
        falls = Choice("schedule", "linear", "to 0 at the last step; better than a cosine in a short run of Multi30k")
        rate, why = 1.5 * rate, f"with this schedule half as much again as is usual {why}"
    if shape is TINY and max_tokens == 2048:
        why_decay = (
            "gains 0.5 BLEU of validation text with Multi30k; in short runs more of it learns more (docs/results.md)"
        )
        decay = [Choice("weight_decay", 0.1 if is_short else 0.05, why_decay)]
    return [
        Choice("optimizer", "muon", "learns small and middling text in far fewer steps than Adam (docs/results.md)"),
        falls,
        Choice("lr", round(rate, 4), why),
        Choice("warmup_steps", min(100, _rounded(max_steps / 6)), "Muon needs no more"),
        *decay,
        clips,
    ]


def checkpoints(train: TrainConfig, seconds_per_update: float) -> list[Choice]:
    """Return when to save, by the time that an update takes, and what to keep."""
    parts = (1, 2, 4, 5, 10, 20, 50, 100, 200, 500, 1000)
    possible = [train.eval_steps // n for n in parts if train.eval_steps % n == 0]
    steps = next((n for n in possible if n * seconds_per_update <= _SECONDS_AT_RISK), possible[-1])
    cost = f"about {format_seconds(steps * seconds_per_update)}, which is what a crash costs at most"
    if train.patience > 0:
        keep = Choice(
            "keep_checkpoints", 5, "the mean of the last five may be better than each, as in the paper: tmt average"
        )
    else:
        keep = Choice("keep_checkpoints", 2, "and the best: where the rate has come to 0 the last ones are all alike")
    return [Choice("checkpoint_steps", steps, cost), keep]


def token_limits(lengths: Sequence[int]) -> list[Choice]:
    """Return the longest sides to train on, where the default fits a text badly.

    Args:
        lengths: tokens of the longer side of each pair of a sample.
    """
    usual = CleanConfig().max_src_tokens
    longest = sorted(lengths)[math.ceil(0.999 * len(lengths)) - 1]
    too_long = sum(length > usual for length in lengths) / len(lengths)
    if longest <= usual // 3:
        limit, why = 100, f"999 of 1,000 pairs have at most {longest} tokens a side; memory grows with the longest"
    elif too_long > MOST_TOO_LONG:
        limit, why = 2 * usual, f"{100 * too_long:.1f} % of the pairs have a side of more than {usual} tokens"
    else:
        return []
    return [Choice("max_src_tokens", limit, why), Choice("max_tgt_tokens", limit)]


def _rounded(steps: float) -> int:
    """Return a number of steps with one or two digits: 100, 120, 150, 200, 250, 300, 400, 500, 600, 800, 1,000 …"""
    unit = 10.0 ** math.floor(math.log10(max(10.0, steps)))
    return int(
        min((step * unit for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)), key=lambda step: abs(step - steps))
    )


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
