"""What a hypothesis is worth: length penalties, and when no better one can come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.search.scorer import Floats, Hypothesis, Ints

PenaltyForm = Literal["gnmt", "power"]
StopRule = Literal["bound", "beam_finished"]


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


def best_continuations(logp_BWV: Tensor, log_prob_BW: Tensor, count: int) -> tuple[Floats, Ints]:
    """Return the ``count`` best sums of a row's log-probability and an id's, and their candidates w·V + v.

    Both are (B, count), on the host, best first, of equal scores the first candidates. Where a sentence has fewer, -inf
    at some candidate fills up.
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
        flat_BK = block_BK * BLOCK_IDS + inner_BK.remainder(BLOCK_IDS)
    else:
        top_BK, flat_BK = (logp_BWV + log_prob_BW.unsqueeze(-1)).view(B, -1).topk(min(k + 1, W * V))
    score_BK, candidate_BK = top_BK.cpu().numpy(), flat_BK.cpu().numpy()
    # Among equal scores `topk` promises no order, and of those at the border it takes any.
    is_tied_B = ((score_BK[:, 1:] == score_BK[:, :-1]) & (score_BK[:, 1:] > -math.inf)).any(axis=1)
    score_BK, candidate_BK = score_BK[:, :k], candidate_BK[:, :k]
    for b in is_tied_B.nonzero()[0].tolist():
        score_C = (logp_BWV[b] + log_prob_BW[b].unsqueeze(-1)).flatten()
        flat_K = (score_C >= float(score_BK[b, -1])).nonzero().squeeze(1)
        top_K, order_K = score_C[flat_K].sort(descending=True, stable=True)
        score_BK[b], candidate_BK[b] = top_K[:k].cpu(), flat_K[order_K[:k]].cpu()
    if k < count:
        missing = ((0, 0), (0, count - k))
        return np.pad(score_BK, missing, constant_values=-math.inf), np.pad(candidate_BK, missing)
    return score_BK, candidate_BK
