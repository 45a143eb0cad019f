"""What a hypothesis is worth: length penalties, and when no better one can come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.scorer import Array, is_on_host

PenaltyForm = Literal["gnmt", "power"]


def length_penalty(length: int, alpha: float, form: PenaltyForm) -> float:
    """Return the divisor of a log-probability; ``length`` counts `</s>`.

    `gnmt` is ((5 + |Y|) / 6)^α (Wu et al. 2016, and the Transformer paper with α = 0.6); `power` is |Y|^α, as in
    fairseq and CTranslate2. Both are monotone in the length.
    """
    return float(((5 + length) / 6) ** alpha if form == "gnmt" else length**alpha)


def best_reachable(log_prob: float, length: int, limit: int, alpha: float, form: PenaltyForm) -> float:
    """Return an upper bound of the score that a live hypothesis of ``length`` ids, not ended, can still reach.

    Let a hypothesis with log-probability p end later with p' and length n, `length` < n <= `limit`. Every id adds the
    logarithm of a probability, so p' <= p <= 0. The penalty is positive, so p' / penalty(n) <= p / penalty(n), and as p
    is not positive, p / penalty(n) grows with the penalty. That is monotone in n, rising for α >= 0 and falling for
    α < 0, so its maximum is at `limit` or at `length` + 1. Rounding is monotone as well: the bound holds in floats.
    """
    return log_prob / max(length_penalty(n, alpha, form) for n in (length + 1, limit))


def is_done(finished: Sequence[Hypothesis], config: SearchConfig, reachable: float) -> bool:
    """Return whether a sentence may stop while the best live hypothesis can reach a score of ``reachable``.

    `bound`: there are `n_best` hypotheses and no live one can still beat the worst of the `n_best` best, so stopping
    changes no result. `beam_finished`: there are `beam_size` hypotheses (fairseq's rule); a live one might have won.
    """
    if config.stop == "beam_finished":
        return len(finished) >= config.beam_size
    if len(finished) < config.n_best:
        return False
    return reachable <= sorted((h.score for h in finished), reverse=True)[config.n_best - 1]


BLOCK_IDS = 64  # the best ids are looked for in blocks with the best maxima, where V is a multiple of it


def best_continuations(logp_BWV: Tensor, log_prob_BW: Tensor, count: int) -> tuple[Any, Any]:
    """Return the ``count`` best sums of a row's log-probability and an id's, and their candidates w·V + v.

    Both are `numbers` (B, count), best first, of equal scores the first candidates. Where a sentence has fewer, -inf at
    some candidate fills up.
    """
    find = by_topk if is_on_host(logp_BWV.device) else by_sorting
    return find(logp_BWV, log_prob_BW, count)


def by_topk(logp_BWV: Tensor, log_prob_BW: Tensor, count: int) -> tuple[Array, Array]:
    """Find the best and look whether any are equal: of these `topk` promises no order, and at the border it takes any.

    This is the fastest way where looking costs nothing.
    """
    B, W, V = logp_BWV.shape
    k = min(count, W * V)
    if _has_blocks(logp_BWV, k):
        # The best k + 1 scores lie in the k + 1 blocks with the best maxima, but for ties.
        block_BK = _block_maxima(logp_BWV, log_prob_BW).topk(k + 1).indices
        top_BK, inner_BK = _block_scores(logp_BWV, log_prob_BW, block_BK).topk(k + 1)
        inner: Array = inner_BK.numpy()
        candidate_BK = block_BK.numpy()[np.arange(B)[:, None], inner // BLOCK_IDS] * BLOCK_IDS + inner % BLOCK_IDS
    else:
        top_BK, flat_BK = (logp_BWV + log_prob_BW.unsqueeze(-1)).view(B, -1).topk(min(k + 1, W * V))
        candidate_BK = flat_BK.numpy()
    score_BK = top_BK.numpy()
    is_tied_B = ((score_BK[:, 1:] == score_BK[:, :-1]) & (score_BK[:, 1:] > -math.inf)).any(axis=1)
    score_BK, candidate_BK = score_BK[:, :k], candidate_BK[:, :k]
    for b in is_tied_B.nonzero()[0].tolist():
        score_C = (logp_BWV[b] + log_prob_BW[b].unsqueeze(-1)).flatten()
        flat_K = (score_C < float(score_BK[b, -1])).logical_not_().nonzero().squeeze(1)  # so NaN is among them
        top_K, order_K = score_C[flat_K].sort(descending=True, stable=True)
        score_BK[b], candidate_BK[b] = top_K[:k], flat_K[order_K[:k]]
    if k < count:
        missing = ((0, 0), (0, count - k))
        return np.pad(score_BK, missing, constant_values=-math.inf), np.pad(candidate_BK, missing)
    return score_BK, candidate_BK


def by_sorting(logp_BWV: Tensor, log_prob_BW: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the same by stable sorts, which keep the order of what is equal: the host has nothing to look at."""
    _, W, V = logp_BWV.shape
    k = min(count, W * V)
    if _has_blocks(logp_BWV, k):
        # A block that comes behind k others, by its maximum and then by its place, has none of the best k: the best
        # candidate of each of the k comes first. Then these blocks by their places, as candidates are.
        block_BM = _block_maxima(logp_BWV, log_prob_BW).sort(dim=1, descending=True, stable=True).indices
        block_BK = block_BM[:, :k].sort(dim=1).values
        score_BC = _block_scores(logp_BWV, log_prob_BW, block_BK)
    else:
        score_BC = (logp_BWV + log_prob_BW.unsqueeze(-1)).flatten(1)
    score_BC, candidate_BC = score_BC.sort(dim=1, descending=True, stable=True)
    score_BK, candidate_BK = score_BC[:, :k], candidate_BC[:, :k]
    if _has_blocks(logp_BWV, k):
        block_BK = block_BK.gather(1, candidate_BK // BLOCK_IDS)
        candidate_BK = block_BK * BLOCK_IDS + candidate_BK % BLOCK_IDS
    if k < count:
        return F.pad(score_BK, (0, count - k), value=-math.inf), F.pad(candidate_BK, (0, count - k))
    return score_BK, candidate_BK


def _has_blocks(logp_BWV: Tensor, k: int) -> bool:
    _, W, V = logp_BWV.shape
    return V % BLOCK_IDS == 0 and k < W * V // BLOCK_IDS


def _block_maxima(logp_BWV: Tensor, log_prob_BW: Tensor) -> Tensor:
    """Return the best score of each block of a sentence's candidates."""
    B, W, V = logp_BWV.shape
    maximum_BWM = logp_BWV.view(B, W, V // BLOCK_IDS, BLOCK_IDS).amax(-1)
    return maximum_BWM.add_(log_prob_BW.unsqueeze(-1)).view(B, -1)


def _block_scores(logp_BWV: Tensor, log_prob_BW: Tensor, block_BK: Tensor) -> Tensor:
    """Return all scores of some blocks (B, K): (B, K · BLOCK_IDS)."""
    B, W, V = logp_BWV.shape
    num_blocks = V // BLOCK_IDS
    first_B1 = torch.arange(0, B * W * num_blocks, W * num_blocks, device=block_BK.device).unsqueeze(1)
    score_BKI = logp_BWV.view(-1, BLOCK_IDS)[block_BK + first_B1]
    score_BKI += log_prob_BW.gather(1, block_BK // num_blocks).unsqueeze(-1)
    return score_BKI.flatten(1)
