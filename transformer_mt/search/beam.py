"""Greedy, beam and sampling search: ids in, ids out.

Search knows no text, no model and no tokenizer. It asks a `StepScorer` for log-probabilities and tells the scorer's
`SearchState` which rows go on; an ensemble is another scorer. What a sentence gets never depends on its neighbours: its
length limit is its own, equal scores are ordered by a rule, and a finished sentence leaves the batch.

Shape suffixes: B sentences still searched, W rows a sentence (1 at the first step), V vocabulary, T ids so far (with
`<s>`), C = W·V candidates of a sentence, K the best of them, E those that end now.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.errors import RunError

PenaltyForm = Literal["gnmt", "power"]
StopRule = Literal["bound", "beam_finished"]
Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]

BLOCK_IDS = 64  # the best ids are looked for in blocks with the best maxima, where V is a multiple of it
_LEAVING_SHARE = 8  # done sentences leave a batch when an eighth of it can go: leaving copies all that stays


class SearchState(Protocol):
    """What a scorer keeps between steps: encoded sources and, for each row, the ids fed so far."""

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        """In place: keep only the sentences `keep_B` (int64 indices into the batch; None keeps all), then let row w of
        each kept sentence b continue from its former row `parents_BW[b, w]` (int64). The number of rows may change."""


StateT = TypeVar("StateT", bound=SearchState)


class StepScorer(Protocol[StateT]):
    """What search needs of a model, or of several."""

    @property
    def device(self) -> torch.device:
        """Where the tensors of `step` and `select` live."""

    def start(self, src: list[list[int]]) -> StateT:
        """Encode the sources and return a state with one row a sentence."""

    def step(self, state: StateT, last_BW: Tensor) -> Tensor:
        """Feed one id (int64) to each row; return log-probabilities (B, W, V) of the next one: float32, log-softmax
        over all ids, in a contiguous tensor that the caller may overwrite. V may be more than there are ids: -inf."""


class Hypothesis(NamedTuple):
    """A finished translation."""

    ids: list[int]  # without `</s>`
    score: float  # log_prob / length penalty: what hypotheses are ranked by
    log_prob: float  # of all its ids and `</s>`


@torch.inference_mode()
def search(
    scorer: StepScorer[StateT],
    src: list[list[int]],
    config: SearchConfig,
    *,
    bos_id: int,
    eos_id: int,
    forbidden_ids: Sequence[int] = (),
    max_length: int | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """Translate a batch; return the hypotheses of each sentence, best first, at most `n_best` of them, at least one.

    Beam search returns distinct hypotheses: fewer than `n_best` where there are no more. Samples are independent, so
    they may repeat. What is not allowed gets no probability, but what is allowed keeps its own: a hypothesis's
    `log_prob` is what the model says of its ids.

    Args:
        forbidden_ids: never produced, but in a prefix.
        max_length: a cap on the ids of a hypothesis, `</s>` included, where a model has no more positions. A longer
            prefix is kept all the same.
        prefixes: the ids that each sentence's hypotheses start with. They count as its own.

    Raises:
        RunError: a sentence has no hypothesis of non-zero probability, as happens when the model yields NaN.
    """
    if eos_id in forbidden_ids:
        raise ValueError(f"forbidden_ids contains eos_id ({eos_id}): no hypothesis could end")
    if not src:
        return []
    starts = [list(prefix) for prefix in prefixes] if prefixes is not None else [[] for _ in src]
    cap = max_length or sys.maxsize
    limits = [min(len(ids) + config.max_extra_tokens, cap) for ids in src]
    rules = _Rules(config, limits, starts, torch.tensor(forbidden_ids, dtype=torch.int64, device=scorer.device), eos_id)
    find = _follow_paths if config.sampling or config.beam_size == 1 else _beam_search
    found = find(scorer, src, config, rules, bos_id)
    for number, hypotheses in enumerate(found):
        if not hypotheses:
            raise RunError(
                f"search: sentence {number} of the batch ({len(src[number])} ids) has no translation: the model gives "
                f"NaN or zero probability; use another checkpoint, or float32 where a lower precision was chosen"
            )
    # Sorting is stable: of equal scores the one found earlier comes first.
    return [sorted(hypotheses, key=lambda h: -h.score)[: config.n_best] for hypotheses in found]


@dataclass(frozen=True)
class _Rules:
    """What a hypothesis may not be, whatever the model thinks of it."""

    config: SearchConfig
    limits: list[int]  # ids of each sentence's hypotheses at most, `</s>` included
    prefixes: list[list[int]]
    forbidden: Tensor
    eos_id: int

    def apply(self, logp_BWV: Tensor, live: Sequence[int | None], tgt_BWT: Ints) -> None:
        """In place: -inf for every id that may not follow the rows ``tgt_BWT`` (with `<s>`) of the sentences ``live``.

        Where rules contradict each other, a prefix is kept first, then the limit, then the rest.
        """
        length = tgt_BWT.shape[2]  # of the hypotheses that end in this step
        only = {}  # the one id that is left to some sentences
        for b, s in enumerate(live):
            if s is not None:
                if length <= len(self.prefixes[s]):
                    only[b] = self.prefixes[s][length - 1]
                elif length >= self.limits[s]:
                    only[b] = self.eos_id
        if only:
            b_E = torch.tensor(list(only), device=logp_BWV.device)
            id_E = torch.tensor(list(only.values()), device=logp_BWV.device)
            kept_EW = logp_BWV[b_E, :, id_E]
        logp_BWV.index_fill_(-1, self.forbidden, -math.inf)
        if length <= self.config.min_tokens:
            logp_BWV[:, :, self.eos_id] = -math.inf
        if self.config.no_repeat_ngram:
            place_E = torch.from_numpy(self._repeating(tgt_BWT, logp_BWV.shape[2])).to(logp_BWV.device)
            logp_BWV.view(-1).index_fill_(0, place_E, -math.inf)
        if only:
            logp_BWV[b_E] = -math.inf
            logp_BWV[b_E, :, id_E] = kept_EW

    def _repeating(self, tgt_BWT: Ints, V: int) -> Ints:
        """The places in (B, W, V) of the ids that would end an n-gram for a second time."""
        n = self.config.no_repeat_ngram
        ids_BWT = tgt_BWT[:, :, 1:]
        if ids_BWT.shape[2] < n:
            return np.empty(0, dtype=np.int64)
        window_BWTN = np.lib.stride_tricks.sliding_window_view(ids_BWT, n, axis=2)
        last_BW1N = ids_BWT[:, :, None, ids_BWT.shape[2] - n + 1 :]
        b, w, t = (window_BWTN[..., : n - 1] == last_BW1N).all(axis=3).nonzero()
        place: Ints = (b * tgt_BWT.shape[1] + w) * V + window_BWTN[b, w, t, n - 1]
        return place


def length_penalty(length: int, alpha: float, form: PenaltyForm) -> float:
    """The divisor of a log-probability; `length` counts `</s>`.

    `gnmt` is ((5 + |Y|) / 6)^α (Wu et al. 2016, and the Transformer paper with α = 0.6); `power` is |Y|^α, as in
    fairseq and CTranslate2. Both are monotone in the length.
    """
    return float(((5 + length) / 6) ** alpha if form == "gnmt" else length**alpha)


def best_reachable(log_prob: float, length: int, limit: int, alpha: float, form: PenaltyForm) -> float:
    """The best score that a live hypothesis of `length` ids, not ended, can still reach: an upper bound.

    Let a hypothesis with log-probability p end later with p' and length n, `length` < n <= `limit`. Every id adds the
    logarithm of a probability, so p' <= p <= 0. The penalty is positive, so p' / penalty(n) <= p / penalty(n), and as p
    is not positive, p / penalty(n) grows with the penalty. That is monotone in n, rising for α >= 0 and falling for
    α < 0, so its maximum is at `limit` or at `length` + 1. Rounding is monotone as well: the bound holds in floats.
    """
    return log_prob / max(length_penalty(n, alpha, form) for n in (length + 1, limit))


def _beam_search(
    scorer: StepScorer[StateT], src: list[list[int]], config: SearchConfig, rules: _Rules, bos_id: int
) -> list[list[Hypothesis]]:
    """Beam search; the finished hypotheses of each sentence in the order in which they were found.

    A candidate that ends is a hypothesis when it is among the best W candidates of its step. It takes no place in the
    beam: W others continue (as in fairseq).
    """
    W, device = config.beam_size, scorer.device
    alpha, form = config.length_penalty, config.length_penalty_form
    # With fewer finished no sentence is done: most need not be looked at.
    enough = W if config.stop == "beam_finished" else config.n_best
    finished: list[list[Hypothesis]] = [[] for _ in src]
    live: list[int | None] = list(range(len(src)))  # the sentence of each batch row; None: it is done
    state = scorer.start(src)
    # Scores stay with the scorer; what is small is the host's.
    tgt_BWT = np.full((len(src), 1, 1), bos_id)
    log_prob_BW = np.zeros((len(src), 1), dtype=np.float32)  # -inf: a row that stands for nothing

    for length in itertools.count(1):  # of the hypotheses that end in this step
        # 1. Score every row with every next id.
        logp_BWV = scorer.step(state, torch.from_numpy(tgt_BWT[:, :, -1]).to(device))
        rules.apply(logp_BWV, live, tgt_BWT)

        # 2. Take the best 2W candidates of each sentence: at most W of them end, so W that do not are left.
        score_BK, place_BK = best_continuations(logp_BWV, torch.from_numpy(log_prob_BW).to(device), 2 * W)
        parent_BK, id_BK = np.divmod(place_BK, logp_BWV.shape[2])
        ends_BK = id_BK == rules.eos_id

        # 3. Finish what ends among the best W.
        for b, k in np.argwhere(ends_BK[:, :W] & (score_BK[:, :W] > -math.inf)).tolist():
            s, log_prob = live[b], float(score_BK[b, k])
            if s is not None:
                ids = tgt_BWT[b, parent_BK[b, k], 1:].tolist()
                finished[s].append(Hypothesis(ids, log_prob / length_penalty(length, alpha, form), log_prob))

        # 4. Continue from the best W that do not end. Stable, so equal scores keep the order of their candidates.
        rank_BW = ends_BK.argsort(axis=1, kind="stable")[:, :W]
        b_B1 = np.arange(len(live))[:, None]
        log_prob_BW = np.where(ends_BK, np.float32(-math.inf), score_BK)[b_B1, rank_BW]
        parents_BW = parent_BK[b_B1, rank_BW]
        # What stands for nothing is fed on like the rest: with an id that there is, which a column of padding is not.
        id_BW = np.where(log_prob_BW > -math.inf, id_BK[b_B1, rank_BW], rules.eos_id)

        # 5. Say which sentences are done. At its limit a sentence has nothing live and is done.
        best_live_B = log_prob_BW.max(axis=1).tolist()
        for b, s in enumerate(live):
            if s is not None and (
                not best_live_B[b] > -math.inf  # so is NaN
                or (
                    len(finished[s]) >= enough
                    and is_done(
                        finished[s], config, best_reachable(best_live_B[b], length, rules.limits[s], alpha, form)
                    )
                )
            ):
                live[b] = None
                log_prob_BW[b] = -math.inf

        # 6. Drop them, a part of the batch at a time: until then their rows stand for nothing.
        staying_B, keep_B = _staying(live), None
        if not len(staying_B):
            break
        if len(staying_B) < len(live):
            live, keep_B = [live[b] for b in staying_B], torch.from_numpy(staying_B).to(device)
            tgt_BWT, parents_BW, id_BW, log_prob_BW = (x[staying_B] for x in (tgt_BWT, parents_BW, id_BW, log_prob_BW))

        # 7. Move everything to the rows that continue.
        state.select(keep_B, torch.from_numpy(parents_BW).to(device))
        prefix_BWT = tgt_BWT[np.arange(len(live))[:, None], parents_BW]
        tgt_BWT = np.concatenate([prefix_BWT, id_BW[:, :, None]], axis=2)

    if config.stop == "beam_finished":  # the first W only, as the step that finishes the last of them may find more
        return [hypotheses[:W] for hypotheses in finished]
    return finished


def is_done(finished: Sequence[Hypothesis], config: SearchConfig, reachable: float) -> bool:
    """Whether a sentence may stop while hypotheses are live, the best of which can reach a score of `reachable`.

    `bound`: there are `n_best` hypotheses and no live one can still beat the worst of the `n_best` best, so stopping
    changes no result. `beam_finished`: there are `beam_size` hypotheses (fairseq's rule); a live one might have won.
    """
    if config.stop == "beam_finished":
        return len(finished) >= config.beam_size
    if len(finished) < config.n_best:
        return False
    return reachable <= sorted((h.score for h in finished), reverse=True)[config.n_best - 1]


def batch_size(at_least: int) -> int:
    """The next number of sentences that a batch may have: 1, 2, 4, 8, 16, 24, 32, …

    The libraries below prepare their kernels anew for each new size of a matrix, which costs as much as using them.
    """
    return -(-at_least // 8) * 8 if at_least > 4 else 1 << (at_least - 1).bit_length()


def _staying(live: Sequence[int | None]) -> Ints:
    """The rows of a batch that stay: all until enough sentences are done (None), then the others and some to fill up;
    none when no sentence is left."""
    rows = [b for b, s in enumerate(live) if s is not None]
    size = batch_size(len(rows)) if rows else 0
    if rows and len(live) - size < max(1, len(live) // _LEAVING_SHARE):
        return np.arange(len(live))
    done = [b for b, s in enumerate(live) if s is None]
    return np.array(sorted(rows + done[: size - len(rows)]), dtype=np.int64)


def best_continuations(logp_BWV: Tensor, log_prob_BW: Tensor, count: int) -> tuple[Floats, Ints]:
    """The ``count`` best sums of a row's log-probability and an id's, and their places w·V + v: both (B, count).

    On the host, best first, of equal scores the first places. Where a sentence has fewer, -inf at some place fills up.
    """
    B, W, V = logp_BWV.shape
    num_blocks = V // BLOCK_IDS
    k = min(count, W * V)
    if V % BLOCK_IDS == 0 and W * num_blocks > count:
        # The best k + 1 scores lie in the k + 1 blocks with the best maxima, but for ties, which show below.
        maximum_BWM = logp_BWV.view(B, W, num_blocks, BLOCK_IDS).amax(-1).add_(log_prob_BW.unsqueeze(-1))
        block_BK = maximum_BWM.view(B, -1).topk(k + 1).indices
        first_B1 = torch.arange(0, B * W * num_blocks, W * num_blocks, device=block_BK.device).unsqueeze(1)
        score_BKI = logp_BWV.view(-1, BLOCK_IDS)[block_BK + first_B1]
        row_BK = block_BK.div(num_blocks, rounding_mode="floor")
        score_BKI += log_prob_BW.gather(1, row_BK).unsqueeze(-1)
        top_BK, inner_BK = score_BKI.flatten(1).topk(k + 1)
        block_BK = block_BK.gather(1, inner_BK.div(BLOCK_IDS, rounding_mode="floor"))
        place_BK = block_BK * BLOCK_IDS + inner_BK.remainder(BLOCK_IDS)
    else:
        top_BK, place_BK = (logp_BWV + log_prob_BW.unsqueeze(-1)).view(B, -1).topk(min(k + 1, W * V))
    score_BK, found_BK = top_BK.cpu().numpy(), place_BK.cpu().numpy()
    # Among equal scores `topk` promises no order, and of those at the border it takes any.
    is_tied_B = ((score_BK[:, 1:] == score_BK[:, :-1]) & (score_BK[:, 1:] > -math.inf)).any(axis=1)
    score_BK, found_BK = score_BK[:, :k], found_BK[:, :k]
    for b in is_tied_B.nonzero()[0].tolist():
        score_C = (logp_BWV[b] + log_prob_BW[b].unsqueeze(-1)).flatten()
        place_K = (score_C >= float(score_BK[b, -1])).nonzero().squeeze(1)
        top_K, order_K = score_C[place_K].sort(descending=True, stable=True)
        score_BK[b], found_BK[b] = top_K[:k].cpu(), place_K[order_K[:k]].cpu()
    if k < count:
        missing = ((0, 0), (0, count - k))
        return np.pad(score_BK, missing, constant_values=-math.inf), np.pad(found_BK, missing)
    return score_BK, found_BK


def _follow_paths(
    scorer: StepScorer[StateT], src: list[list[int]], config: SearchConfig, rules: _Rules, bos_id: int
) -> list[list[Hypothesis]]:
    """Greedy search and sampling: each row follows one path to its first `</s>`.

    Each sample draws from a random stream of its own, keyed by the seed, its number and the ids of its source: batch
    and order do not change it, and equal sources get equal samples.
    """
    W, device = config.n_best if config.sampling else 1, scorer.device
    streams = [[Random(f"{config.seed} {w} {ids}") for w in range(W)] for ids in src] if config.sampling else []
    log_probs = [[0.0] * W for _ in src]
    open_rows = [set(range(W)) for _ in src]  # a closed row is still fed, and ignored, until its sentence is finished
    finished: list[list[Hypothesis]] = [[] for _ in src]
    live: list[int | None] = list(range(len(src)))  # the sentence of each batch row; None: it is finished
    state = scorer.start(src)
    tgt_BWT = np.full((len(src), 1, 1), bos_id)

    for length in itertools.count(1):
        # 1. Choose one id for every row; the first step has one row for all.
        logp_BWV = scorer.step(state, torch.from_numpy(tgt_BWT[:, :, -1]).to(device))
        rules.apply(logp_BWV, live, tgt_BWT)
        if config.sampling:
            logp_BWV = logp_BWV.expand(-1, W, -1)
            draws = [[0.0] * W if s is None else [stream.random() for stream in streams[s]] for s in live]
            draw_BW = torch.tensor(draws, dtype=torch.float64)
            id_BW = sample(logp_BWV, draw_BW.to(device), config).cpu().numpy()
            logp_BW = logp_BWV.gather(2, torch.from_numpy(id_BW).to(device).unsqueeze(-1)).squeeze(-1).cpu().numpy()
        else:
            logp_BW, id_BW = best_continuations(logp_BWV, logp_BWV.new_zeros(len(live), 1), 1)

        id_BW = np.where(logp_BW > -math.inf, id_BW, rules.eos_id)  # a column of padding is no id

        # 2. Append it to its path, or close the path.
        for b, (s, ids, logps) in enumerate(zip(live, id_BW.tolist(), logp_BW.tolist(), strict=True)):
            for w in sorted(open_rows[s]) if s is not None else ():
                assert s is not None
                log_probs[s][w] += logps[w]
                if not logps[w] > -math.inf:  # nothing was allowed, or NaN: no hypothesis
                    open_rows[s].remove(w)
                elif ids[w] == rules.eos_id:
                    open_rows[s].remove(w)
                    score = log_probs[s][w] / length_penalty(length, config.length_penalty, config.length_penalty_form)
                    path = tgt_BWT[b, w if length > 1 else 0, 1:].tolist()
                    finished[s].append(Hypothesis(path, score, log_probs[s][w]))

        # 3. Drop the sentences that are finished, and open the rows of the samples after the first step.
        live = [s if s is not None and open_rows[s] else None for s in live]
        staying_B, keep_B = _staying(live), None
        if not len(staying_B):
            break
        if len(staying_B) < len(live):
            live, keep_B = [live[b] for b in staying_B], torch.from_numpy(staying_B).to(device)
        parents_BW = np.broadcast_to(np.arange(W) if length > 1 else np.zeros(W, dtype=np.int64), (len(live), W))
        if keep_B is not None or (length == 1 and W > 1):
            state.select(keep_B, torch.tensor(parents_BW, device=device))
        prefix_BWT = tgt_BWT[staying_B[:, None], parents_BW]
        tgt_BWT = np.concatenate([prefix_BWT, id_BW[staying_B][:, :, None]], axis=2)
    return finished


def sample(logp_BWV: Tensor, draw_BW: Tensor, config: SearchConfig) -> Tensor:
    """One id a row by inversion: the first at which the cumulated probability exceeds the draw (float64, in [0, 1)).

    The distribution is p^(1/temperature), cut to its `top_k` best ids, then to the fewest best ids that hold at least
    `top_p` of what is left; of equal ids the first count as better.
    """
    logp_BWV = logp_BWV / config.temperature
    if config.top_k or config.top_p < 1:
        best_BWV, order_BWV = logp_BWV.sort(dim=-1, descending=True, stable=True)
        if config.top_k:
            best_BWV[..., config.top_k :] = -math.inf
        prob_BWV = best_BWV.softmax(dim=-1, dtype=torch.float64)
        mass_before_BWV = prob_BWV.cumsum(dim=-1) - prob_BWV
        if config.top_p < 1:
            best_BWV.masked_fill_(mass_before_BWV >= config.top_p, -math.inf)
        logp_BWV = torch.empty_like(best_BWV).scatter_(-1, order_BWV, best_BWV)
    mass_BWV = logp_BWV.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    place_BW1 = torch.searchsorted(mass_BWV, draw_BW.unsqueeze(-1) * mass_BWV[..., -1:], right=True)
    return place_BW1.squeeze(-1).clamp(max=logp_BWV.size(-1) - 1)
