"""The parts of search one by one, and cases whose outcome can be worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.errors import RunError
from transformer_mt.search import scoring
from transformer_mt.search.beam import search
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.sampling import sample
from transformer_mt.search.scoring import (
    PenaltyForm,
    best_continuations,
    best_reachable,
    by_sorting,
    by_topk,
    is_done,
    length_penalty,
)

EOS, A, B, BOS = 0, 1, 2, 3
Probabilities = Callable[[list[int]], list[float]]


class TreeState:
    def __init__(self, num_sentences: int) -> None:
        self.prefixes: list[list[list[int]]] = [[[]] for _ in range(num_sentences)]

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        kept = self.prefixes if keep_B is None else [self.prefixes[b] for b in keep_B.tolist()]
        self.prefixes = [[rows[w] for w in parents] for rows, parents in zip(kept, parents_BW.tolist(), strict=True)]

    def make_room(self, num_positions: int) -> None:
        pass


class TreeScorer:
    """Probabilities of (</s>, a, b, <s>) after a prefix, the same for every source; notes the shape of each step."""

    device = torch.device("cpu")

    def __init__(self, probabilities: Probabilities) -> None:
        self.probabilities = probabilities
        self.shapes: list[tuple[int, ...]] = []

    def start(self, src: list[list[int]]) -> TreeState:
        return TreeState(len(src))

    def step(self, state: TreeState, last_BW: Tensor) -> Tensor:
        self.shapes.append(tuple(last_BW.shape))
        assert last_BW.dtype == torch.int64
        fed = zip(state.prefixes, last_BW.tolist(), strict=True)
        state.prefixes = [[[*p, i] for p, i in zip(ps, ids, strict=True)] for ps, ids in fed]
        assert all(prefix[0] == BOS for rows in state.prefixes for prefix in rows)
        return torch.tensor([[self.probabilities(p[1:]) for p in rows] for rows in state.prefixes]).log()


def run(
    probabilities: Probabilities,
    config: SearchConfig,
    src: list[list[int]] | None = None,
    forbidden: tuple[int, ...] = (),
) -> list[list[Hypothesis]]:
    src = [[7, 8, 9]] if src is None else src
    return search(TreeScorer(probabilities), src, config, bos_id=BOS, eos_id=EOS, forbidden_ids=forbidden)


def late_winner(prefix: list[int]) -> list[float]:
    """Two short hypotheses end before the good one: "" 0.4, "a" 0.5·0.3, and "a a" 0.5·0.7·1."""
    match prefix:
        case []:
            return [0.4, 0.5, 0.1, 0.0]
        case [1]:
            return [0.3, 0.7, 0.0, 0.0]
        case _:
            return [1.0, 0.0, 0.0, 0.0]


def endless(prefix: list[int]) -> list[float]:
    return [0.01, 0.6, 0.39, 0.0]


def test_config_defaults_are_the_papers() -> None:
    config = SearchConfig()
    assert (config.beam_size, config.length_penalty, config.length_penalty_form) == (4, 0.6, "gnmt")
    assert (config.max_extra_tokens, config.stop, config.n_best) == (50, "bound", 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_size": 0},
        {"n_best": 0},
        {"n_best": 5},
        {"max_extra_tokens": -1},
        {"beam_size": 100_000},
        {"n_best": 100_000},
        {"max_extra_tokens": 10**9},
        {"length_penalty": math.nan},
        {"length_penalty": 1e308},
        {"length_penalty": -1000.0},
        {"temperature": 0.0},
        {"temperature": 1e-40},
        {"temperature": 1e300},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
    ],
)
def test_config_refuses_and_names_the_field(settings: dict[str, Any]) -> None:
    [name] = settings
    with pytest.raises(ValidationError, match=name):
        SearchConfig(**settings)


def test_config_reports_all_problems_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        SearchConfig(top_k=-1, top_p=2.0)
    assert [error["loc"] for error in refused.value.errors()] == [("top_k",), ("top_p",)]


def test_length_penalties() -> None:
    # Wu et al. 2016, equation 14: (5 + |Y|)^α / (5 + 1)^α.
    assert length_penalty(7, 0.6, "gnmt") == pytest.approx(12**0.6 / 6**0.6)
    assert length_penalty(1, 0.6, "gnmt") == 1
    assert length_penalty(7, 0.6, "power") == pytest.approx(7**0.6)
    assert length_penalty(9, 0.0, "gnmt") == length_penalty(9, 0.0, "power") == 1


@pytest.mark.parametrize("form", ["gnmt", "power"])
@pytest.mark.parametrize("alpha", [-2.0, -0.5, 0.0, 0.6, 1.5])
def test_the_bound_is_the_best_over_all_lengths_that_are_left(form: PenaltyForm, alpha: float) -> None:
    for length in range(1, 9):
        left = [-3.0 / length_penalty(n, alpha, form) for n in range(length + 1, 10)]
        assert best_reachable(-3.0, length, 9, alpha, form) == max(left)


def test_is_done() -> None:
    two = [Hypothesis([], -2.0, -2.0), Hypothesis([A], -1.0, -1.0)]
    bound = SearchConfig(beam_size=3, n_best=2)
    assert is_done(two, bound, reachable=-2.0)  # it could only draw level, and what came first wins
    assert not is_done(two, bound, reachable=-1.9)
    assert not is_done(two[:1], bound, reachable=-9.0)
    peers = SearchConfig(beam_size=2, stop="beam_finished")
    assert is_done(two, peers, reachable=0.0)
    assert not is_done(two[:1], peers, reachable=-9.0)


def slow_continuations(logp_BWV: Tensor, log_prob_BW: Tensor, count: int) -> list[list[tuple[float, int]]]:
    """The `count` best finite scores of each sentence with their places, by a stable sort of all."""
    score_BC = (logp_BWV + log_prob_BW.unsqueeze(-1)).flatten(1)
    return [
        [(row[c], c) for c in sorted(range(len(row)), key=lambda c: -row[c]) if row[c] > -math.inf][:count]
        for row in score_BC.tolist()
    ]


@pytest.mark.parametrize("find", [by_topk, by_sorting])
@pytest.mark.parametrize("vocab_size", [6, 64, 192, 200])  # with blocks and without
@pytest.mark.parametrize("num_scores", [3, 100_000])  # nearly all are equal; hardly any
@pytest.mark.parametrize("count", [1, 2, 8, 20])
def test_best_continuations_orders_equal_scores_by_place(
    monkeypatch: pytest.MonkeyPatch, find: Callable[..., Any], vocab_size: int, num_scores: int, count: int
) -> None:
    """As a CPU finds them and as a GPU does."""
    monkeypatch.setattr(scoring, "by_topk", find)
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        logp_BWV = -torch.randint(0, num_scores, (4, 3, vocab_size), generator=random).float() / 4
        logp_BWV[torch.rand(logp_BWV.shape, generator=random) < 0.3] = -math.inf
        logp_BWV[3, :, 1:] = -math.inf  # fewer than are asked for
        log_prob_BW = torch.tensor([[0.0, -0.25, -math.inf], [-1.0, -1.0, -1.0], [0.0, -9.0, -1.0], [0.0, 0.0, 0.0]])
        score_BK, place_BK = best_continuations(logp_BWV, log_prob_BW, count)
        assert score_BK.shape == place_BK.shape == (4, count)
        assert place_BK.min() >= 0 and place_BK.max() < 3 * vocab_size
        score_BK, place_BK = torch.as_tensor(score_BK), torch.as_tensor(place_BK)
        expected = slow_continuations(logp_BWV, log_prob_BW, count)
        for scores, places, best in zip(score_BK.tolist(), place_BK.tolist(), expected, strict=True):
            assert list(zip(scores, places, strict=True))[: len(best)] == best
            assert scores[len(best) :] == [-math.inf] * (count - len(best))


def test_an_empty_batch() -> None:
    assert run(endless, SearchConfig(), src=[]) == []


def test_forbidding_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="eos_id"):
        run(endless, SearchConfig(), forbidden=(EOS,))


def test_the_peers_rule_stops_too_early_and_the_bound_does_not() -> None:
    config = SearchConfig(beam_size=2, length_penalty=1.0, length_penalty_form="power")
    [[best]] = run(late_winner, config)
    assert best.ids == [A, A]
    assert best.log_prob == pytest.approx(math.log(0.35))
    assert best.score == pytest.approx(math.log(0.35) / 3)
    [[first]] = run(late_winner, config.model_copy(update={"stop": "beam_finished"}))
    assert first.ids == []
    assert first.score == pytest.approx(math.log(0.4))


def test_by_the_peers_rule_what_the_last_step_finds_beyond_the_beam_does_not_count() -> None:
    """Ends: "" 0.4, then "a" 0.5 and "b" 0.1 in one step. The third is one too many, though it beats the first."""

    def two_at_once(prefix: list[int]) -> list[float]:
        return [1.0, 0.0, 0.0, 0.0] if prefix else [0.4, 0.5, 0.1, 0.0]

    config = SearchConfig(beam_size=2, n_best=2, stop="beam_finished", length_penalty=2.0, length_penalty_form="power")
    [found] = run(two_at_once, config)
    assert [hypothesis.ids for hypothesis in found] == [[A], []]
    assert math.log(0.1) / 2**2 > found[1].score == pytest.approx(math.log(0.4))


@pytest.mark.parametrize(("beam_size", "stop"), [(1, "bound"), (2, "bound"), (2, "beam_finished")])
def test_at_its_own_limit_a_sentence_is_closed_with_the_end(
    beam_size: int, stop: Literal["bound", "beam_finished"]
) -> None:
    config = SearchConfig(beam_size=beam_size, length_penalty=0.0, stop=stop, max_extra_tokens=2)
    for source, [best] in zip(([7], [7, 8, 9]), run(endless, config, src=[[7], [7, 8, 9]]), strict=True):
        length = len(source) + 2
        assert best.ids == [A] * (length - 1)  # `</s>` (0.01) is never among the best two before it is forced
        assert best.log_prob == pytest.approx((length - 1) * math.log(0.6) + math.log(0.01))


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("sampling", [False, True])
def test_max_length_caps_every_sentence_and_counts_the_end(beam_size: int, sampling: bool) -> None:
    def no_end(prefix: list[int]) -> list[float]:  # `</s>` is chosen only where nothing else is allowed
        return [1e-30, 0.7, 0.3, 0.0]

    config = SearchConfig(beam_size=beam_size, sampling=sampling, max_extra_tokens=2)
    src = [[7], [7, 8, 9]]
    own_limits = search(TreeScorer(no_end), src, config, bos_id=BOS, eos_id=EOS)
    assert [len(found[0].ids) + 1 for found in own_limits] == [3, 5]
    for max_length, expected in [(4, [3, 4]), (2, [2, 2]), (1, [1, 1]), (9, [3, 5])]:
        capped = search(TreeScorer(no_end), src, config, bos_id=BOS, eos_id=EOS, max_length=max_length)
        assert [len(found[0].ids) + 1 for found in capped] == expected


def test_finished_sentences_leave_the_batch_and_rows_open_after_the_first_step() -> None:
    scorer = TreeScorer(endless)
    search(scorer, [[7], [7, 8, 9]], SearchConfig(beam_size=3, max_extra_tokens=1), bos_id=BOS, eos_id=EOS)
    assert scorer.shapes == [(2, 1), (2, 3), (1, 3), (1, 3)]
    scorer = TreeScorer(endless)
    search(scorer, [[7, 8], [7]], SearchConfig(beam_size=1, max_extra_tokens=0), bos_id=BOS, eos_id=EOS)
    assert scorer.shapes == [(2, 1), (1, 1)]


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [4, 4, 3]),  # never behind the last limit: learned positions end there
        ({"min_tokens": 6}, [7, 4]),  # nothing to see before the seventh step
        ({"min_tokens": 99}, [8, 3]),  # but a state has room for so many steps at most
        ({"no_repeat_ngram": 20}, [1] * 11),  # whose ids the host has to know
    ],
)
def test_when_the_host_looks(
    monkeypatch: pytest.MonkeyPatch, beam_size: int, settings: dict[str, Any], expected: list[int]
) -> None:
    """Steps to the next look, where looking takes time; up to the limit, as `</s>` is chosen only there."""
    rooms: list[int] = []
    monkeypatch.setattr("transformer_mt.search.scorer._HOST", "another")
    monkeypatch.setattr(TreeState, "make_room", lambda state, num_positions: rooms.append(num_positions // beam_size))
    scorer = TreeScorer(lambda prefix: [1e-30, 0.7, 0.3, 0.0])
    config = SearchConfig(beam_size=beam_size, max_extra_tokens=8, stop="beam_finished", **settings)
    search(scorer, [[7], [7, 8, 9]], config, bos_id=BOS, eos_id=EOS)
    assert rooms == expected
    assert len(scorer.shapes) == sum(expected) == 11


def test_forbidden_ids_leave_the_other_log_probabilities_as_they_are() -> None:
    [greedy] = run(endless, SearchConfig(beam_size=1, max_extra_tokens=0), src=[[7, 8]], forbidden=(A,))
    [beam] = run(endless, SearchConfig(beam_size=3, n_best=3, max_extra_tokens=0), src=[[7, 8]], forbidden=(A,))
    assert [h.ids for h in greedy] == [[B]]
    assert [h.ids for h in beam] == [[], [B]]
    for hypothesis in (*greedy, beam[1]):
        assert hypothesis.log_prob == pytest.approx(math.log(0.39 * 0.01))


def test_what_has_no_probability_is_no_hypothesis() -> None:
    """Only "" and "a" exist, however wide the beam and many the hypotheses asked for."""

    def two(prefix: list[int]) -> list[float]:
        return [1.0, 0.0, 0.0, 0.0] if prefix else [0.2, 0.8, 0.0, 0.0]

    [found] = run(two, SearchConfig(beam_size=9, n_best=9, length_penalty=0.0))
    assert [h.ids for h in found] == [[A], []]
    [found] = run(two, SearchConfig(beam_size=9, n_best=9, length_penalty=0.0), forbidden=(A,))
    assert [h.ids for h in found] == [[]]


@pytest.mark.parametrize("config", [SearchConfig(), SearchConfig(beam_size=1), SearchConfig(sampling=True)])
@pytest.mark.parametrize("probability", [math.nan, 0.0])
def test_a_model_without_probabilities_is_a_failure(config: SearchConfig, probability: float) -> None:
    with pytest.raises(RunError, match="sentence 0 of the batch"):
        run(lambda prefix: [probability] * 4, config)


def test_sampling_by_inversion() -> None:
    logp_BWV = torch.tensor([0.5, 0.2, 0.0, 0.3]).log().expand(1, 7, 4)
    draw_BW = torch.tensor([[0.0, 0.49, 0.51, 0.69, 0.71, 0.99, 1 - 2**-53]], dtype=torch.float64)

    def ids(config: SearchConfig) -> list[int]:
        return sample(logp_BWV, draw_BW, config)[0].tolist()

    assert ids(SearchConfig(sampling=True)) == [0, 0, 1, 1, 3, 3, 3]
    # Squared and normalised: 25/38, 4/38, 9/38.
    assert ids(SearchConfig(sampling=True, temperature=0.5)) == [0, 0, 0, 1, 1, 3, 3]
    # Ids 0 and 3 are left with 5/8 and 3/8.
    assert ids(SearchConfig(sampling=True, top_k=2)) == [0, 0, 0, 3, 3, 3, 3]
    assert ids(SearchConfig(sampling=True, top_p=0.51)) == [0, 0, 0, 3, 3, 3, 3]
    # After top_k 2 the first holds 0.625, which is enough.
    assert ids(SearchConfig(sampling=True, top_k=2, top_p=0.6)) == [0] * 7
    assert ids(SearchConfig(sampling=True, top_p=0.4)) == [0] * 7
    assert ids(SearchConfig(sampling=True, top_k=9)) == [0, 0, 1, 1, 3, 3, 3]


def test_sampling_cuts_ties_by_place() -> None:
    logp_BWV = torch.full((1, 1, 4), 0.25).log()
    draw_BW = torch.tensor([[0.99]], dtype=torch.float64)
    assert sample(logp_BWV, draw_BW, SearchConfig(sampling=True, top_k=2)).tolist() == [[1]]
    assert sample(logp_BWV, draw_BW, SearchConfig(sampling=True, top_p=0.5)).tolist() == [[1]]  # two hold exactly 0.5


def test_an_id_without_probability_is_never_drawn() -> None:
    logp_BWV = torch.tensor([[[0.0, 0.5, 0.0, 0.5]]]).log().expand(1, 2, 4)
    draw_BW = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    assert sample(logp_BWV, draw_BW, SearchConfig(sampling=True)).tolist() == [[1, 3]]


def test_samples_follow_the_distribution() -> None:
    """Outputs of at most three ids, forced to end; expected shares are products along the tree."""
    num_samples = 4000
    config = SearchConfig(sampling=True, n_best=num_samples, max_extra_tokens=0, seed=3)
    [found] = run(late_winner, config)
    counts = Counter(tuple(h.ids) for h in found)
    shares = {(): 0.4, (A,): 0.5 * 0.3, (A, A): 0.5 * 0.7, (B,): 0.1}
    assert set(counts) == set(shares)
    chi_square = sum((counts[ids] - num_samples * p) ** 2 / (num_samples * p) for ids, p in shares.items())
    assert chi_square < 16.27  # three degrees of freedom, 0.1 %


def test_samples_depend_on_seed_and_source_and_not_on_their_number() -> None:
    def ids(seed: int, n_best: int, source: list[int]) -> Counter[tuple[int, ...]]:
        config = SearchConfig(sampling=True, n_best=n_best, seed=seed, max_extra_tokens=20)
        return Counter(tuple(h.ids) for h in run(endless, config, src=[source])[0])

    four = ids(1, 4, [7, 8])
    assert len(four) == 4
    assert ids(1, 4, [7, 8]) == four
    assert ids(2, 4, [7, 8]) != four
    assert ids(1, 4, [8, 7]) != four
    assert ids(1, 2, [7, 8]) <= four
