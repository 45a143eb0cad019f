"""Search against slow twins in plain Python: exhaustive search, a beam search over lists that never stops early, an
argmax loop, and itself on other batches.

The toy scorer's log-probabilities are a pure function of the source and the whole prefix, and its state holds the
prefixes that it was fed: rows that `select` mixes up change every score after it.
"""

from __future__ import annotations

import functools
import itertools
import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transformer_mt.config import SearchConfig
from transformer_mt.search import Hypothesis, PenaltyForm, StopRule, length_penalty, search

EOS, BOS = 0, 1  # `<s>` is an ordinary id here unless it is forbidden
Prefix = tuple[int, ...]


class ToyState:
    def __init__(self, src: list[Prefix]) -> None:
        self.src = src
        self.prefixes: list[list[Prefix]] = [[()] for _ in src]

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        keep = range(len(self.src)) if keep_B is None else keep_B.tolist()
        self.src = [self.src[b] for b in keep]
        kept = [self.prefixes[b] for b in keep]
        self.prefixes = [[rows[w] for w in parents] for rows, parents in zip(kept, parents_BW.tolist(), strict=True)]


class ToyScorer:
    """Random distributions; with `coarse`, multiples of a quarter, so that many scores are equal and all sums exact."""

    device = torch.device("cpu")

    def __init__(self, seed: int, vocab_size: int, coarse: bool = False) -> None:
        self.seed, self.vocab_size, self.coarse = seed, vocab_size, coarse
        self.log_probs = functools.cache(self._log_probs)

    def _log_probs(self, src: Prefix, prefix: Prefix) -> list[float]:
        random = Random(f"{self.seed} {src} {prefix}")
        if self.coarse:
            return [-random.randint(1, 6) / 4 for _ in range(self.vocab_size)]
        logits = [random.gauss(0, 1.5) for _ in range(self.vocab_size)]
        return torch.tensor(logits).log_softmax(0).tolist()

    def start(self, src: list[list[int]]) -> ToyState:
        return ToyState([tuple(ids) for ids in src])

    def step(self, state: ToyState, last_BW: Tensor) -> Tensor:
        last, rows = last_BW.tolist(), state.prefixes
        state.prefixes = [[(*p, i) for p, i in zip(ps, ids, strict=True)] for ps, ids in zip(rows, last, strict=True)]
        return torch.tensor(
            [[self.log_probs(src, p[1:]) for p in ps] for src, ps in zip(state.src, state.prefixes, strict=True)]
        )


def exhaustive(scorer: ToyScorer, src: Prefix, config: SearchConfig, forbidden: Prefix = ()) -> list[Hypothesis]:
    """Every hypothesis within the limit, best first."""
    alphabet = [i for i in range(scorer.vocab_size) if i != EOS and i not in forbidden]
    found = []
    for length in range(1, len(src) + config.max_extra_tokens + 1):
        for ids in itertools.product(alphabet, repeat=length - 1):
            log_prob = sum(scorer.log_probs(src, ids[:t])[i] for t, i in enumerate((*ids, EOS)))
            score = log_prob / length_penalty(length, config.length_penalty, config.length_penalty_form)
            found.append(Hypothesis(list(ids), score, log_prob))
    return sorted(found, key=lambda h: -h.score)


def plain_beam(scorer: ToyScorer, src: Prefix, config: SearchConfig, forbidden: Prefix = ()) -> list[Hypothesis]:
    """Beam search over lists. With `stop: bound` it never stops before the limit."""
    live: list[tuple[float, Prefix]] = [(0.0, ())]
    finished: list[Hypothesis] = []
    limit = len(src) + config.max_extra_tokens
    for length in range(1, limit + 1):
        allowed = [EOS] if length == limit else [i for i in range(scorer.vocab_size) if i not in forbidden]
        candidates = [(p + scorer.log_probs(src, ids)[i], (*ids, i)) for p, ids in live for i in allowed]
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
    scorer: ToyScorer, src: Prefix, config: SearchConfig, forbidden: Prefix = ()
) -> tuple[list[int], float]:
    ids: list[int] = []
    log_prob = 0.0
    for length in itertools.count(1):
        logps = scorer.log_probs(src, tuple(ids))
        allowed = [i for i in range(scorer.vocab_size) if i not in forbidden]
        best = EOS if length == len(src) + config.max_extra_tokens else max(allowed, key=lambda i: logps[i])
        log_prob += logps[best]
        if best == EOS:
            break
        ids.append(best)
    return ids, log_prob


def run(scorer: ToyScorer, src: list[Prefix], config: SearchConfig, forbidden: Prefix = ()) -> list[list[Hypothesis]]:
    return search(scorer, [list(s) for s in src], config, bos_id=BOS, eos_id=EOS, forbidden_ids=forbidden)


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [h.ids for h in found] == [h.ids for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], rel=1e-6, abs=1e-5)
    assert [h.log_prob for h in found] == pytest.approx([h.log_prob for h in expected], rel=1e-6, abs=1e-5)


sources: st.SearchStrategy[Prefix] = st.lists(st.integers(2, 9), min_size=1, max_size=3).map(tuple)
batches = st.lists(sources, min_size=1, max_size=4)
alphas = st.sampled_from([-1.0, -0.3, 0.0, 0.6, 1.0, 2.0])
forms: st.SearchStrategy[PenaltyForm] = st.sampled_from(["gnmt", "power"])
stops: st.SearchStrategy[StopRule] = st.sampled_from(["bound", "beam_finished"])
forbiddens = st.sampled_from([(), (BOS,)])


@st.composite
def scorers(draw: st.DrawFn) -> ToyScorer:
    return ToyScorer(draw(st.integers(0, 10**6)), draw(st.integers(3, 5)), draw(st.booleans()))


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
    )


# In a 4-symbol vocabulary with |Y| <= 5 no step has more than 108 candidates (27 prefixes of 3 ids, times 4), so a
# beam of 108 prunes nothing and must find what exhaustive search finds.
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), batches, alphas, forms, st.integers(1, 108), forbiddens, st.integers(0, 4))
def test_a_wide_beam_is_exhaustive_search(
    seed: int, src: list[Prefix], alpha: float, form: PenaltyForm, n_best: int, forbidden: Prefix, extra: int
) -> None:
    scorer = ToyScorer(seed, 4)
    config = SearchConfig(
        beam_size=108, length_penalty=alpha, length_penalty_form=form, n_best=n_best, max_extra_tokens=extra
    )
    src = [s[: 5 - extra] for s in src]
    for found, s in zip(run(scorer, src, config, forbidden), src, strict=True):
        assert_same(found, exhaustive(scorer, s, config, forbidden)[:n_best])


@settings(deadline=None, max_examples=150)
@given(scorers(), batches, beam_configs(), forbiddens)
def test_any_beam_is_the_plain_beam(
    scorer: ToyScorer, src: list[Prefix], config: SearchConfig, forbidden: Prefix
) -> None:
    """For `stop: bound` the twin goes on to the limit: stopping changes nothing. For `beam_finished` it stops too."""
    for found, s in zip(run(scorer, src, config, forbidden), src, strict=True):
        assert_same(found, plain_beam(scorer, s, config, forbidden))


@settings(deadline=None, max_examples=60)
@given(scorers(), batches, beam_configs())
def test_stopping_at_the_bound_is_never_worse_than_the_peers_rule(
    scorer: ToyScorer, src: list[Prefix], config: SearchConfig
) -> None:
    bound = run(scorer, src, config.model_copy(update={"stop": "bound"}))
    peers = run(scorer, src, config.model_copy(update={"stop": "beam_finished"}))
    for ours, theirs in zip(bound, peers, strict=True):
        assert len(ours) >= len(theirs)
        assert all(a.score >= b.score for a, b in zip(ours, theirs, strict=False))


@settings(deadline=None, max_examples=60)
@given(scorers(), batches, alphas, forms, st.integers(0, 6), forbiddens)
def test_greedy_is_an_argmax_loop(
    scorer: ToyScorer, src: list[Prefix], alpha: float, form: PenaltyForm, extra: int, forbidden: Prefix
) -> None:
    config = SearchConfig(beam_size=1, length_penalty=alpha, length_penalty_form=form, max_extra_tokens=extra)
    for found, s in zip(run(scorer, src, config, forbidden), src, strict=True):
        ids, log_prob = argmax_loop(scorer, s, config, forbidden)
        score = log_prob / length_penalty(len(ids) + 1, alpha, config.length_penalty_form)
        assert_same(found, [Hypothesis(ids, score, log_prob)])


@settings(deadline=None, max_examples=60)
@given(scorers(), batches, beam_configs() | sampling_configs() | st.just(SearchConfig(beam_size=1)), st.randoms())
def test_neighbours_and_order_change_nothing(
    scorer: ToyScorer, src: list[Prefix], config: SearchConfig, random: Random
) -> None:
    together = run(scorer, src, config)
    assert together == [run(scorer, [s], config)[0] for s in src]
    order = random.sample(range(len(src)), len(src))
    shuffled = run(scorer, [src[i] for i in order], config)
    assert shuffled == [together[i] for i in order]


@settings(deadline=None, max_examples=60)
@given(scorers(), batches, beam_configs() | sampling_configs(), forbiddens)
def test_every_hypothesis_is_legal_and_scored_as_the_model_scores_it(
    scorer: ToyScorer, src: list[Prefix], config: SearchConfig, forbidden: Prefix
) -> None:
    for found, s in zip(run(scorer, src, config, forbidden), src, strict=True):
        assert 1 <= len(found) <= config.n_best
        assert len({tuple(h.ids) for h in found}) == len(found) or config.sampling
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        for ids, score, log_prob in found:
            assert len(ids) + 1 <= len(s) + config.max_extra_tokens
            assert not {EOS, *forbidden} & set(ids)
            forced = [scorer.log_probs(s, tuple(ids[:t]))[i] for t, i in enumerate([*ids, EOS])]
            assert math.isclose(log_prob, sum(forced), rel_tol=1e-6, abs_tol=1e-5)
            penalty = length_penalty(len(ids) + 1, config.length_penalty, config.length_penalty_form)
            assert math.isclose(score, log_prob / penalty)


@settings(deadline=None, max_examples=40)
@given(scorers(), batches, st.integers(0, 99), st.sampled_from([0.5, 1.0, 3.0]))
def test_sampling_the_best_id_is_greedy(scorer: ToyScorer, src: list[Prefix], seed: int, temperature: float) -> None:
    config = SearchConfig(beam_size=1, max_extra_tokens=6)
    for cut in ({"top_k": 1}, {"top_p": 1e-9}):
        sampling = {"sampling": True, "seed": seed, "temperature": temperature, **cut}
        sampled = run(scorer, src, config.model_copy(update=sampling))
        assert sampled == run(scorer, src, config)
