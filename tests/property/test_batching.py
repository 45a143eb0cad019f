"""The plan of an epoch and the cut of an update, for any lengths, shards, budgets, windows, ranks and cursors."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_mt.data import batching
from transformer_mt.data.batching import Lengths, Pairs, Part, cut_update, is_same_in_all_epochs, plan_windows

Update = list[int]


class Corpus(NamedTuple):
    src: Lengths
    tgt: Lengths
    shards: list[int]
    max_tokens: int
    max_source_tokens: int
    window: int  # pairs
    source_of_shard: list[int]
    weights: list[float]

    @property
    def parts(self) -> list[Part]:
        ends = list(itertools.accumulate(self.shards))
        return [
            Part(source, end - size, end)
            for source, size, end in zip(self.source_of_shard, self.shards, ends, strict=True)
        ]

    @property
    def source_of(self) -> Pairs:
        """The source of each pair."""
        return np.repeat(np.array(self.source_of_shard), self.shards)

    @property
    def budget(self) -> dict[str, int]:
        return {"max_tokens": self.max_tokens, "max_source_tokens": self.max_source_tokens}


@st.composite
def corpora(draw: st.DrawFn, longest: int = 20) -> Corpus:
    shards = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    lengths = st.lists(st.integers(1, longest), min_size=sum(shards), max_size=sum(shards))
    src, tgt = np.array(draw(lengths), dtype=np.int32), np.array(draw(lengths), dtype=np.int32)
    budgets = st.integers(longest, 4 * longest)
    sources = sorted(draw(st.lists(st.integers(0, 2), min_size=len(shards), max_size=len(shards))))
    window = draw(st.integers(1, 40))
    return Corpus(src, tgt, shards, draw(budgets), draw(budgets), window, sources, [1.0, 1.0, 1.0])


def random_corpus(shortest: int = 1) -> Corpus:
    rng = np.random.default_rng(4)
    src, tgt = (rng.integers(shortest, 21, 60).astype(np.int32) for _ in range(2))
    return Corpus(src, tgt, [20, 20, 20], 40, 50, window=40, source_of_shard=[0, 0, 0], weights=[1.0])


def windows(corpus: Corpus, seed: int = 1, epoch: int = 0) -> list[list[Update]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "WINDOW_PAIRS", corpus.window)
        found = plan_windows(
            corpus.src, corpus.tgt, corpus.parts, corpus.weights, seed=seed, epoch=epoch, **corpus.budget
        )
        return [[pairs.tolist() for pairs in window] for window in found]


def plan(corpus: Corpus, seed: int = 1, epoch: int = 0) -> list[Update]:
    return list(itertools.chain.from_iterable(windows(corpus, seed, epoch)))


seeds = st.integers(0, 2**40)
epochs = st.integers(0, 1000)


@given(corpora(), seeds, epochs)
def test_each_pair_is_in_one_update_of_an_epoch(corpus: Corpus, seed: int, epoch: int) -> None:
    updates = plan(corpus, seed, epoch)
    assert sorted(itertools.chain.from_iterable(updates)) == list(range(sum(corpus.shards)))
    assert all(updates)


@given(corpora(), seeds, epochs)
def test_both_budgets_are_kept_and_used(corpus: Corpus, seed: int, epoch: int) -> None:
    """In the order of lengths two neighbours together break a budget: T_i + T_j > M or S_i + S_j > N. Summed over the
    n - 1 neighbours of a window, n - 1 < 2 (T / M + S / N)."""
    updates = plan(corpus, seed, epoch)
    for pairs in updates:
        assert corpus.tgt[pairs].sum() <= corpus.max_tokens
        assert corpus.src[pairs].sum() <= corpus.max_source_tokens
    num_windows = max(1, round(sum(corpus.shards) / corpus.window))
    shares = corpus.tgt.sum() / corpus.max_tokens + corpus.src.sum() / corpus.max_source_tokens
    assert len(updates) < 2 * shares + num_windows


@given(corpora(), seeds, epochs)
def test_lengths_of_an_update_are_similar(corpus: Corpus, seed: int, epoch: int) -> None:
    """Sorted targets are cut into runs, so the runs' ranges [low, high] follow each other. A run of n pairs has at most
    n (high - low) padded positions, and the sum of high - low over all runs is at most longest - shortest."""
    corpus = corpus._replace(window=sum(corpus.shards))
    updates = plan(corpus, seed, epoch)
    padded = sum(len(pairs) * int(corpus.tgt[pairs].max()) for pairs in updates)
    spread = int(corpus.tgt.max() - corpus.tgt.min())
    assert padded - int(corpus.tgt.sum()) <= max(map(len, updates)) * spread
    ranges = sorted((int(corpus.tgt[pairs].min()), int(corpus.tgt[pairs].max())) for pairs in updates)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(ranges))


@given(corpora(), seeds, epochs)
def test_every_source_is_spread_evenly_over_windows_of_few_shards(corpus: Corpus, seed: int, epoch: int) -> None:
    shard_of = np.repeat(np.arange(len(corpus.shards)), corpus.shards)
    found = windows(corpus, seed, epoch)
    assert len(found) == max(1, round(sum(corpus.shards) / corpus.window))
    left = dict(enumerate(corpus.shards))
    begun: set[int] = set()
    for number, updates in enumerate(found):
        pairs = list(itertools.chain.from_iterable(updates))
        for source in range(3):
            size, own = int((corpus.source_of == source).sum()), int((corpus.source_of[pairs] == source).sum())
            first, last = size * number // len(found), size * (number + 1) // len(found)
            assert own == last - first
        # Of each source one shard at most is begun and not done with when a window ends.
        begun.update(shard_of[pairs].tolist())
        for shard in shard_of[pairs].tolist():
            left[shard] -= 1
        open_ones = [corpus.source_of_shard[shard] for shard in begun if left[shard]]
        assert len(open_ones) == len(set(open_ones))


@st.composite
def weighted(draw: st.DrawFn) -> Corpus:
    weight = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.2])
    return draw(corpora())._replace(weights=draw(st.lists(weight, min_size=3, max_size=3)))


@given(weighted(), seeds, epochs)
def test_a_source_of_weight_w_has_each_pair_as_often(corpus: Corpus, seed: int, epoch: int) -> None:
    """⌊w⌋ times, and for the fraction some of them once more: as many as it says, but for a pair of each shard."""
    updates = plan(corpus, seed, epoch)
    times = np.bincount(np.array(list(itertools.chain.from_iterable(updates)), dtype=int), minlength=sum(corpus.shards))
    for part in corpus.parts:
        weight, own = corpus.weights[part.source], times[part.start : part.end]
        assert set(own.tolist()) <= {int(weight), int(weight) + (weight > int(weight))}
        assert abs(own.sum() - weight * len(own)) < 1
    for pairs in updates:
        assert corpus.tgt[pairs].sum() <= corpus.max_tokens
        assert corpus.src[pairs].sum() <= corpus.max_source_tokens


def test_the_sample_of_a_fraction_is_fair_and_another_in_each_epoch() -> None:
    """Each of the 60 pairs is in 0.3 of the epochs. Of 400 epochs that is 120 with a standard deviation of 9.2."""
    corpus = random_corpus()._replace(weights=[0.3])
    times = np.zeros(60)
    for epoch in range(400):
        for pairs in plan(corpus, epoch=epoch):
            times[pairs] += 1
    assert times.sum() == pytest.approx(0.3 * 60 * 400, rel=0.02)
    assert times.min() > 120 - 5 * 9.2 and times.max() < 120 + 5 * 9.2


def test_a_fraction_of_parts_too_small_for_it_is_fair_too() -> None:
    """60 parts of a pair each are in a quarter of 200 epochs: 50 of them, with a standard deviation of 6.1."""
    corpus = random_corpus()._replace(shards=[1] * 60, source_of_shard=[0] * 60, weights=[0.25])
    times = np.zeros(60)
    for epoch in range(200):
        for pairs in plan(corpus, epoch=epoch):
            times[pairs] += 1
    assert times.min() > 50 - 5 * 6.1 and times.max() < 50 + 5 * 6.1


def test_repeated_pairs_come_in_other_company() -> None:
    """Three times through a source are three ways: hardly two pairs are together in more than one update."""
    corpus = random_corpus(shortest=18)._replace(weights=[3.0], window=1000)
    together = [frozenset(two) for pairs in plan(corpus) for two in itertools.combinations(pairs, 2)]
    assert len(set(together)) > 0.8 * len(together)


@given(weighted(), seeds)
def test_what_is_said_to_be_the_same_in_all_epochs_is(corpus: Corpus, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "WINDOW_PAIRS", corpus.window)
        if not is_same_in_all_epochs(corpus.parts, corpus.weights):
            return
    found = [windows(corpus, seed, epoch) for epoch in range(3)]
    assert {len(one) for one in found} == {1}
    assert len({str(sorted(itertools.chain.from_iterable(one[0]))) for one in found}) == 1


@given(corpora(), seeds, epochs)
def test_the_plan_is_a_pure_function(corpus: Corpus, seed: int, epoch: int) -> None:
    first = plan(corpus, seed, epoch)
    np.random.seed(0)
    plan(corpus, seed + 1, epoch)
    assert plan(corpus, seed, epoch) == first


@pytest.mark.parametrize("shards", [[60], [20, 20, 20]])
def test_epochs_and_seeds_differ_in_company_and_in_order(shards: list[int]) -> None:
    corpus = random_corpus(shortest=18)._replace(
        shards=shards, source_of_shard=[0] * len(shards)
    )  # many pairs of equal lengths: these change company
    plans = [plan(corpus, seed, epoch) for seed in (1, 2) for epoch in range(5)]
    assert len({str(updates) for updates in plans}) == 10
    assert len({str(sorted(sorted(pairs) for pairs in updates)) for updates in plans}) == 10


def test_epochs_visit_shards_in_another_order() -> None:
    corpus = random_corpus()
    one_at_a_time = corpus._replace(window=20)
    assert len({tuple(pairs[0] // 20 for pairs in plan(one_at_a_time, 1, epoch)) for epoch in range(8)}) > 1


def test_updates_are_not_in_order_of_length() -> None:
    lengths = [int(random_corpus().tgt[pairs].max()) for pairs in plan(random_corpus()._replace(window=60))]
    assert lengths != sorted(lengths) and lengths != sorted(lengths, reverse=True)


@pytest.mark.parametrize(("src", "tgt"), [(31, 1), (1, 41)])
def test_a_pair_that_fits_no_update_is_an_error(src: int, tgt: int) -> None:
    src_lengths, tgt_lengths = (np.array([2, n, 3], dtype=np.int32) for n in (src, tgt))
    with pytest.raises(ValueError, match=f"a pair of {src} and {tgt} ids"):
        list(
            plan_windows(
                src_lengths, tgt_lengths, [Part(0, 0, 3)], [1.0], seed=1, epoch=0, max_tokens=40, max_source_tokens=30
            )
        )


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Corpus, Pairs, int, int]:
    """A corpus, an update of it in any order, ranks and micro_tokens."""
    corpus = draw(corpora())
    numbers = draw(st.lists(st.integers(0, sum(corpus.shards) - 1), min_size=1, unique=True))
    return corpus, np.array(numbers, dtype=np.int64), draw(st.integers(1, 5)), draw(st.integers(1, 200))


@given(cuts())
def test_an_update_is_cut_without_loss_or_repetition(given_cut: tuple[Corpus, Pairs, int, int]) -> None:
    """So the pairs of an update are the same for any number of ranks and any size of micro-batches."""
    corpus, pairs, num_ranks, micro_tokens = given_cut
    ranks = cut_update(pairs, corpus.src, corpus.tgt, num_ranks=num_ranks, micro_tokens=micro_tokens)
    assert len(ranks) == num_ranks
    dealt = [pair for rank in ranks for micro in rank for pair in micro.tolist()]
    assert sorted(dealt) == sorted(pairs.tolist())
    assert all(len(micro) for rank in ranks for micro in rank)


@given(cuts())
def test_micro_batches_keep_their_budget_and_use_it(given_cut: tuple[Corpus, Pairs, int, int]) -> None:
    corpus, pairs, num_ranks, micro_tokens = given_cut

    def positions(micro: Pairs) -> int:
        return len(micro) * int(corpus.src[micro].max() + corpus.tgt[micro].max())

    for rank in cut_update(pairs, corpus.src, corpus.tgt, num_ranks=num_ranks, micro_tokens=micro_tokens):
        for micro in rank:
            assert positions(micro) <= micro_tokens or len(micro) == 1
        for micro, following in itertools.pairwise(rank):
            assert positions(np.append(micro, following[0])) > micro_tokens


@given(cuts())
def test_ranks_are_balanced(given_cut: tuple[Corpus, Pairs, int, int]) -> None:
    """Dealt in order of target length: a rank's k-th pair is no longer than any rank's (k+1)-th, so the sums of labels
    differ by at most the longest target, and the counts by at most one."""
    corpus, pairs, num_ranks, micro_tokens = given_cut
    ranks = cut_update(pairs, corpus.src, corpus.tgt, num_ranks=num_ranks, micro_tokens=micro_tokens)
    labels = [sum(int(corpus.tgt[micro].sum()) for micro in rank) for rank in ranks]
    counts = [sum(len(micro) for micro in rank) for rank in ranks]
    assert max(labels) - min(labels) <= corpus.tgt[pairs].max()
    assert max(counts) - min(counts) <= 1


def test_the_order_of_an_update_changes_nothing_but_ties() -> None:
    """A rank's micro-batches depend on the pairs alone where no two have the same lengths."""
    src, tgt = np.arange(1, 21, dtype=np.int32), np.arange(20, 0, -1, dtype=np.int32)
    for order in (np.arange(20), np.arange(20)[::-1], np.random.default_rng(1).permutation(20)):
        [[first, *_], _] = cut_update(order, src, tgt, num_ranks=2, micro_tokens=60)
        assert first.tolist() == [19, 17]  # source 20 + target 3 and 18: two rows of 20 + 3 fit, three of 20 + 5 do not
