"""Greedy search and sampling: one path a row."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import torch
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.search.rules import Rules
from transformer_mt.search.scorer import Hypothesis, StateT, StepScorer, staying
from transformer_mt.search.scoring import best_continuations, length_penalty


def follow_paths(
    scorer: StepScorer[StateT], src: list[list[int]], config: SearchConfig, rules: Rules, bos_id: int
) -> list[list[Hypothesis]]:
    """Search greedily, or by sampling: each row follows one path to its first `</s>`.

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
        staying_B, keep_B = staying(live), None
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
    """Draw one id a row by inversion: the first at which the cumulated probability exceeds the draw.

    Draws are float64, in [0, 1). The distribution is p^(1/temperature), cut to its `top_k` best ids, then to the fewest
    best ids that hold at least `top_p` of what is left; of equal ids the first count as better.
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
    index_BW1 = torch.searchsorted(mass_BWV, draw_BW.unsqueeze(-1) * mass_BWV[..., -1:], right=True)
    return index_BW1.squeeze(-1).clamp(max=logp_BWV.size(-1) - 1)
