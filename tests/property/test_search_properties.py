"""Search against slow twins in plain Python: exhaustive search, a beam search over lists that never stops early, an
argmax loop, and itself on other batches.

The toy scorer's log-probabilities are a pure function of the source and the whole prefix, and its state holds the
prefixes that it was fed: rows that `select` mixes up change every score after it. What may follow a prefix the twins
ask `allowed`, which looks at one hypothesis at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from random import Random
from typing import Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.errors import RunError
from transformer_mt.search import rules as rules_module
from transformer_mt.search import scorer as scorer_module
from transformer_mt.search.beam import search
from transformer_mt.search.ensemble import Ensemble
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.scorer import StepScorer
from transformer_mt.search.scoring import BLOCK_IDS, PenaltyForm, length_penalty

EOS, BOS = 0, 1  # `<s>` is an ordinary id here unless it is forbidden
Prefix = tuple[int, ...]


class Sentence(NamedTuple):
    src: Prefix
    start: Prefix = ()  # what its hypotheses start with


class ToyState:
    def __init__(self, src: list[Prefix]) -> None:
        self.src = src
        self.prefixes: list[list[Prefix]] = [[()] for _ in src]

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        keep = range(len(self.src)) if keep_B is None else keep_B.tolist()
        self.src = [self.src[b] for b in keep]
        kept = [self.prefixes[b] for b in keep]
        self.prefixes = [[rows[w] for w in parents] for rows, parents in zip(kept, parents_BW.tolist(), strict=True)]

    def make_room(self, num_positions: int) -> None:
        pass


class ToyScorer:
    """Random distributions, the more certain the greater `spread` is; with `coarse`, multiples of a quarter, so that
    many scores are equal and all sums exact; with `padded`, in more columns than there are ids, as a model's are."""

    device = torch.device("cpu")

    def __init__(
        self, seed: int, vocab_size: int, coarse: bool = False, padded: bool = False, spread: float = 1.5
    ) -> None:
        self.arguments = seed, vocab_size, coarse, padded, spread
        self.seed, self.vocab_size, self.coarse, self.spread = seed, vocab_size, coarse, spread
        self.num_columns = 3 * BLOCK_IDS if padded else vocab_size
        self.log_probs = functools.cache(self._log_probs)

    def __repr__(self) -> str:
        return f"ToyScorer{self.arguments}"

    def _log_probs(self, src: Prefix, prefix: Prefix) -> list[float]:
        random = Random(f"{self.seed} {src} {prefix}")
        if self.coarse:
            return [-random.randint(1, 6) / 4 for _ in range(self.vocab_size)]
        logits = [random.gauss(0, self.spread) for _ in range(self.vocab_size)]
        return torch.tensor(logits).log_softmax(0).tolist()

    def start(self, src: list[list[int]]) -> ToyState:
        return ToyState([tuple(ids) for ids in src])

    def step(self, state: ToyState, last_BW: Tensor) -> Tensor:
        last, rows = last_BW.tolist(), state.prefixes
        assert all(0 <= i < self.vocab_size for ids in last for i in ids), "an id that no table of embeddings has"
        state.prefixes = [[(*p, i) for p, i in zip(ps, ids, strict=True)] for ps, ids in zip(rows, last, strict=True)]
        logp_BWV = torch.full((*last_BW.shape, self.num_columns), -math.inf)
        logp_BWV[:, :, : self.vocab_size] = torch.tensor(
            [[self.log_probs(src, p[1:]) for p in ps] for src, ps in zip(state.src, state.prefixes, strict=True)]
        )
        return logp_BWV


def limit_of(sentence: Sentence, config: SearchConfig) -> int:
    return max(len(sentence.src) + config.max_extra_tokens, len(sentence.start) + 1)


def allowed(scorer: ToyScorer, sentence: Sentence, config: SearchConfig, forbidden: Prefix, ids: Prefix) -> list[int]:
    """The ids that may follow ``ids``; none, where the rules leave none."""
    if len(ids) < len(sentence.start):
        return [sentence.start[len(ids)]]
    if len(ids) + 1 == limit_of(sentence, config):
        return [EOS]
    n = config.no_repeat_ngram
    seen = {ids[t : t + n] for t in range(len(ids) - n + 1)} if n else set()
    return [
        i
        for i in range(scorer.vocab_size)
        if i not in forbidden and not (i == EOS and len(ids) < config.min_tokens) and not (n and (*ids, i)[-n:] in seen)
    ]


def exhaustive(scorer: ToyScorer, sentence: Sentence, config: SearchConfig, forbidden: Prefix = ()) -> list[Hypothesis]:
    """Every hypothesis that the rules allow, best first."""
    found = []

    def extend(ids: Prefix, log_prob: float) -> None:
        logps = scorer.log_probs(sentence.src, ids)
        for i in allowed(scorer, sentence, config, forbidden, ids):
            if i == EOS:
                penalty = length_penalty(len(ids) + 1, config.length_penalty, config.length_penalty_form)
                found.append(Hypothesis(list(ids), (log_prob + logps[i]) / penalty, log_prob + logps[i]))
            else:
                extend((*ids, i), log_prob + logps[i])

    extend((), 0.0)
    return sorted(found, key=lambda h: -h.score)


def plain_beam(scorer: ToyScorer, sentence: Sentence, config: SearchConfig, forbidden: Prefix = ()) -> list[Hypothesis]:
    """Beam search over lists. With `stop: bound` it never stops before the limit."""
    live: list[tuple[float, Prefix]] = [(0.0, ())]
    finished: list[Hypothesis] = []
    for length in range(1, limit_of(sentence, config) + 1):
        candidates = [
            (p + scorer.log_probs(sentence.src, ids)[i], (*ids, i))
            for p, ids in live
            for i in allowed(scorer, sentence, config, forbidden, ids)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])  # stable: row by row, then id by id
        for log_prob, ids in candidates[: config.beam_size]:
            if ids[-1] == EOS:
                score = log_prob / length_penalty(length, config.length_penalty, config.length_penalty_form)
                finished.append(Hypothesis(list(ids[:-1]), score, log_prob))
        live = [candidate for candidate in candidates if candidate[1][-1] != EOS][: config.beam_size]
        if config.stop == "beam_finished" and len(finished) >= config.beam_size:
            del finished[config.beam_size :]
            break
    return sorted(finished, key=lambda h: -h.score)[: config.n_best]


def argmax_loop(
    scorer: ToyScorer, sentence: Sentence, config: SearchConfig, forbidden: Prefix = ()
) -> list[Hypothesis]:
    """One hypothesis, or none where its path comes to a place that the rules let nothing follow."""
    ids: Prefix = ()
    log_prob = 0.0
    while choices := allowed(scorer, sentence, config, forbidden, ids):
        logps = scorer.log_probs(sentence.src, ids)
        best = max(choices, key=lambda i: logps[i])
        log_prob += logps[best]
        if best == EOS:
            penalty = length_penalty(len(ids) + 1, config.length_penalty, config.length_penalty_form)
            return [Hypothesis(list(ids), log_prob / penalty, log_prob)]
        ids = (*ids, best)
    return []


def run(
    scorer: StepScorer[Any], batch: list[Sentence], config: SearchConfig, forbidden: Prefix = ()
) -> list[list[Hypothesis]]:
    starts = [s.start for s in batch]
    return search(
        scorer,
        [list(s.src) for s in batch],
        config,
        bos_id=BOS,
        eos_id=EOS,
        forbidden_ids=forbidden,
        prefixes=starts if any(starts) else None,
    )


Outcome = list[list[Hypothesis]] | None


def outcome(scorer: StepScorer[Any], batch: list[Sentence], config: SearchConfig, forbidden: Prefix = ()) -> Outcome:
    """What search finds; None where it says that a sentence has nothing that the rules allow."""
    try:
        return run(scorer, batch, config, forbidden)
    except RunError:
        return None


def assert_same(found: list[list[Hypothesis]] | None, expected: list[list[Hypothesis]]) -> None:
    """One sentence without hypotheses is a failure of the batch."""
    if not all(expected):
        assert found is None
        return
    assert found is not None
    for ours, theirs in zip(found, expected, strict=True):
        assert [h.ids for h in ours] == [h.ids for h in theirs]
        assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], rel=1e-6, abs=1e-5)
        assert [h.log_prob for h in ours] == pytest.approx([h.log_prob for h in theirs], rel=1e-6, abs=1e-5)


# Ids of a start are those of the smallest vocabulary; it may hold forbidden ones and repeat n-grams, but never ends.
starts: st.SearchStrategy[Prefix] = st.just(()) | st.lists(st.integers(1, 2), max_size=4).map(tuple)
sources: st.SearchStrategy[Prefix] = st.lists(st.integers(2, 9), min_size=1, max_size=3).map(tuple)
batches = st.lists(st.builds(Sentence, sources, starts), min_size=1, max_size=4)
alphas = st.sampled_from([-3.0, -1.0, -0.3, 0.0, 0.6, 1.0, 2.0, 4.0])
forms: st.SearchStrategy[PenaltyForm] = st.sampled_from(["gnmt", "power"])
stops: st.SearchStrategy[Literal["bound", "beam_finished"]] = st.sampled_from(["bound", "beam_finished"])
forbiddens = st.sampled_from([(), (BOS,)])


class Rules(NamedTuple):
    min_tokens: int
    no_repeat_ngram: int


rules = st.just(Rules(0, 0)) | st.builds(Rules, st.integers(0, 5), st.integers(0, 3))


@st.composite
def scorers(draw: st.DrawFn) -> ToyScorer:
    coarse, padded, spread = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([1.5, 4.0]))
    return ToyScorer(draw(st.integers(0, 10**6)), draw(st.integers(3, 5)), coarse, padded, spread)


@st.composite
def beam_configs(draw: st.DrawFn) -> SearchConfig:
    beam_size = draw(st.integers(2, 7))
    return SearchConfig(
        beam_size=beam_size,
        n_best=draw(st.integers(1, beam_size)),
        length_penalty=draw(alphas),
        length_penalty_form=draw(forms),
        stop=draw(stops),
        max_extra_tokens=draw(st.integers(0, 8)),
        **draw(rules)._asdict(),
    )


@st.composite
def greedy_configs(draw: st.DrawFn) -> SearchConfig:
    return SearchConfig(
        beam_size=1,
        length_penalty=draw(alphas),
        length_penalty_form=draw(forms),
        max_extra_tokens=draw(st.integers(0, 6)),
        **draw(rules)._asdict(),
    )


@st.composite
def sampling_configs(draw: st.DrawFn) -> SearchConfig:
    return SearchConfig(
        sampling=True,
        n_best=draw(st.integers(1, 3)),
        temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
        top_k=draw(st.integers(0, 6)),
        top_p=draw(st.sampled_from([0.3, 0.9, 1.0])),
        max_extra_tokens=draw(st.integers(0, 5)),
        seed=draw(st.integers(0, 99)),
        **draw(rules)._asdict(),
    )


# In a 4-symbol vocabulary with |Y| <= 5 no step has more than 108 candidates (27 prefixes of 3 ids, times 4), so a
# beam of 108 prunes nothing and must find what exhaustive search finds.
@given(st.integers(0, 10**6), batches, beam_configs(), st.integers(1, 108), forbiddens, st.booleans())
def test_a_wide_beam_is_exhaustive_search(
    seed: int, batch: list[Sentence], config: SearchConfig, n_best: int, forbidden: Prefix, padded: bool
) -> None:
    scorer = ToyScorer(seed, 4, padded=padded)
    extra = min(config.max_extra_tokens, 4)
    config = config.model_copy(update={"beam_size": 108, "n_best": n_best, "stop": "bound", "max_extra_tokens": extra})
    batch = [Sentence(s.src[: 5 - extra], s.start) for s in batch]
    expected = [exhaustive(scorer, s, config, forbidden)[:n_best] for s in batch]
    assert_same(outcome(scorer, batch, config, forbidden), expected)


@given(scorers(), batches, beam_configs(), forbiddens)
def test_any_beam_is_the_plain_beam(
    scorer: ToyScorer, batch: list[Sentence], config: SearchConfig, forbidden: Prefix
) -> None:
    """For `stop: bound` the twin goes on to the limit: stopping changes nothing. For `beam_finished` it stops too."""
    expected = [plain_beam(scorer, s, config, forbidden) for s in batch]
    assert_same(outcome(scorer, batch, config, forbidden), expected)


@given(scorers(), batches, beam_configs(), forbiddens)
def test_stopping_at_the_bound_is_never_worse_than_the_peers_rule(
    scorer: ToyScorer, batch: list[Sentence], config: SearchConfig, forbidden: Prefix
) -> None:
    bound = outcome(scorer, batch, config.model_copy(update={"stop": "bound"}), forbidden)
    peers = outcome(scorer, batch, config.model_copy(update={"stop": "beam_finished"}), forbidden)
    assert (bound is None) == (peers is None)
    for ours, theirs in zip(bound or [], peers or [], strict=True):
        assert len(ours) >= len(theirs)
        assert all(a.score >= b.score for a, b in zip(ours, theirs, strict=False))


# A path with two ids to choose from, none of them twice, that may not end before the fifth.
DEAD_END = SearchConfig(beam_size=1, max_extra_tokens=6, min_tokens=5, no_repeat_ngram=1)
# One sample has nothing left to go on with while another has.
SOME_DEAD_ENDS = SearchConfig(sampling=True, n_best=3, max_extra_tokens=9, min_tokens=5, no_repeat_ngram=2, seed=0)


@given(scorers(), batches, greedy_configs(), forbiddens)
@example(ToyScorer(1, 3), [Sentence((2,))], DEAD_END, ())
def test_greedy_is_an_argmax_loop(
    scorer: ToyScorer, batch: list[Sentence], config: SearchConfig, forbidden: Prefix
) -> None:
    expected = [argmax_loop(scorer, s, config, forbidden) for s in batch]
    assert_same(outcome(scorer, batch, config, forbidden), expected)


@given(scorers(), batches, beam_configs() | sampling_configs() | greedy_configs(), forbiddens, st.randoms())
def test_neighbours_and_order_change_nothing(
    scorer: ToyScorer, batch: list[Sentence], config: SearchConfig, forbidden: Prefix, random: Random
) -> None:
    alone = [outcome(scorer, [s], config, forbidden) for s in batch]
    order = random.sample(range(len(batch)), len(batch))
    together = outcome(scorer, batch, config, forbidden)
    shuffled = outcome(scorer, [batch[i] for i in order], config, forbidden)
    if None in alone:
        assert together is None and shuffled is None
    else:
        found = [found for each in alone for found in each or []]
        assert together == found
        assert shuffled == [found[i] for i in order]


class FailingScorer(ToyScorer):
    """One that gives NaN from some step on, for all ids or for some.

    Whatever the prefix is: that of a row that stands for nothing is anyone's choice.
    """

    def _log_probs(self, src: Prefix, prefix: Prefix) -> list[float]:
        random, logps = Random(f"{src} {self.seed}"), super()._log_probs(src, prefix)
        if len(prefix) >= random.randint(1, 9):
            first = random.randrange(self.vocab_size)
            logps[first:] = [math.nan] * len(logps[first:])
        return logps


def as_on_a_gpu(steps_a_look: int, find: Callable[[], Outcome]) -> Outcome:
    """What search finds where all that a step needs stays on the device, and the host looks every so many steps."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scorer_module, "_HOST", "another")
        patched.setattr(rules_module, "STEPS_A_LOOK", steps_a_look)
        return find()


@given(
    scorers(),
    st.integers(0, 5),
    batches,
    beam_configs() | sampling_configs() | greedy_configs(),
    forbiddens,
    st.sampled_from([1, 2, 3, 5]),
)
def test_steps_between_looks_change_nothing(
    scorer: ToyScorer, kind: int, batch: list[Sentence], config: SearchConfig, forbidden: Prefix, steps_a_look: int
) -> None:
    """To the last bit, also of an ensemble, and of a model that gives NaN."""
    asked: StepScorer[Any] = scorer
    if kind == 0:
        asked = Ensemble([scorer, ToyScorer(scorer.seed + 1, *scorer.arguments[1:])], "linear")
    elif kind == 1:
        asked = FailingScorer(*scorer.arguments)
    batch = batch * 5  # so that some leave before others
    expected = outcome(asked, batch, config, forbidden)
    assert as_on_a_gpu(steps_a_look, lambda: outcome(asked, batch, config, forbidden)) == expected


# Of a hundred sentences only a few show a bound that is not one, so there are many.
@given(
    scorers(),
    st.integers(16, 32),
    st.randoms(use_true_random=False),
    beam_configs(),
    st.sampled_from([-3.0, -1.0, 1.0, 2.0, 4.0]),
    st.integers(1, 2),
)
def test_stopping_and_waiting_to_leave_change_nothing(
    scorer: ToyScorer, size: int, random: Random, config: SearchConfig, alpha: float, n_best: int
) -> None:
    """The twin has no rule to stop by. In a batch of this size, sentences that are done stay for a while as rows that
    stand for nothing."""
    config = config.model_copy(update={"stop": "bound", "length_penalty": alpha, "n_best": n_best})
    batch = [
        Sentence(
            tuple(random.choices(range(2, 10), k=random.randint(1, 3))),
            tuple(random.choices([BOS, 2], k=random.choice([0, 0, 0, 1, 2, 4]))),
        )
        for _ in range(size)
    ]
    expected = [plain_beam(scorer, s, config) for s in batch]
    # A sentence without hypotheses fails its batch, and there is a test of that.
    having = [b for b in range(size) if expected[b]]
    assert_same(outcome(scorer, [batch[b] for b in having], config), [expected[b] for b in having])


@given(scorers(), batches, beam_configs() | sampling_configs(), forbiddens)
@example(ToyScorer(1, 3, padded=True), [Sentence((2,))], SOME_DEAD_ENDS, ())
def test_every_hypothesis_is_legal_and_scored_as_the_model_scores_it(
    scorer: ToyScorer, batch: list[Sentence], config: SearchConfig, forbidden: Prefix
) -> None:
    batches_found = outcome(scorer, batch, config, forbidden)
    if batches_found is None:  # only these two rules together can leave a path nothing to go on with
        assert config.min_tokens and config.no_repeat_ngram
        return
    for found, s in zip(batches_found, batch, strict=True):
        assert 1 <= len(found) <= config.n_best
        assert len({tuple(h.ids) for h in found}) == len(found) or config.sampling
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        limit, own = max(len(s.src) + config.max_extra_tokens, len(s.start) + 1), len(s.start)
        for ids, score, log_prob in found:
            assert tuple(ids[:own]) == s.start
            assert len(ids) + 1 <= limit
            assert len(ids) >= config.min_tokens or len(ids) + 1 == limit
            assert EOS not in ids and not set(forbidden) & set(ids[own:])
            if n := config.no_repeat_ngram:
                for end in range(max(n, own + 1), len(ids) + 1):  # but those that the start repeats
                    assert ids[end - n : end] not in [ids[e - n : e] for e in range(n, end)]
            forced = [scorer.log_probs(s.src, tuple(ids[:t]))[i] for t, i in enumerate([*ids, EOS])]
            assert math.isclose(log_prob, sum(forced), rel_tol=1e-6, abs_tol=1e-5)
            penalty = length_penalty(len(ids) + 1, config.length_penalty, config.length_penalty_form)
            assert math.isclose(score, log_prob / penalty)


@given(scorers(), batches, greedy_configs(), st.integers(0, 99), st.sampled_from([0.5, 1.0, 3.0]))
@example(ToyScorer(1, 3), [Sentence((2,))], DEAD_END, 1, 1.0)
def test_sampling_the_best_id_is_greedy(
    scorer: ToyScorer, batch: list[Sentence], config: SearchConfig, seed: int, temperature: float
) -> None:
    for cut in ({"top_k": 1}, {"top_p": 1e-9}):
        sampling = {"sampling": True, "seed": seed, "temperature": temperature, **cut}
        assert outcome(scorer, batch, config.model_copy(update=sampling)) == outcome(scorer, batch, config)
