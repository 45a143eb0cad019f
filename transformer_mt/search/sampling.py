"""Greedy search and sampling: one path a row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.rules import Rules
from transformer_mt.search.scorer import StateT, StepScorer, is_on_host, numbers, on_host, staying
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
    xp: Any = np if is_on_host(device) else torch  # what goes with `numbers`
    id_BW = numbers(torch.full((len(src), 1), bos_id, device=device))
    tgt_BWT = np.full((len(src), 1, 1), bos_id)  # the host's, as it has last seen them
    unseen: list[list[Any]] = []  # what each step since then has found
    look_at = 0

    for length in itertools.count(1):
        if length > look_at:
            look_at = rules.look_ahead(live, length)
            num_steps = look_at - length + 1
            state.make_room(num_steps * W)
            draw_NBW = _draws(streams, live, num_steps, W).to(device) if config.sampling else None

        # 1. Choose one id for every row; the first step has one row for all.
        logp_BWV = scorer.step(state, torch.as_tensor(id_BW))
        rules.apply(logp_BWV, length, tgt_BWT)
        if draw_NBW is not None:
            logp_BWV = logp_BWV.expand(-1, W, -1)
            chosen_BW = sample(logp_BWV, draw_NBW[length - look_at - 1], config)
            logp_BW, id_BW = numbers(logp_BWV.gather(2, chosen_BW.unsqueeze(-1)).squeeze(-1)), numbers(chosen_BW)
        else:
            logp_BW, id_BW = best_continuations(logp_BWV, logp_BWV.new_zeros(len(live), 1), 1)
        id_BW = xp.where(logp_BW > -math.inf, id_BW, rules.eos_id)  # a column of padding is no id
        unseen.append([logp_BW, id_BW])

        keep_B = None
        if length == look_at:
            # 2. Look at these steps: append each id to its path, or close the path.
            for n, (logps_BW, ids_BW) in enumerate(on_host(unseen), length + 1 - len(unseen)):
                for b, (s, ids, logps) in enumerate(zip(live, ids_BW.tolist(), logps_BW.tolist(), strict=True)):
                    for w in sorted(open_rows[s]) if s is not None else ():
                        assert s is not None
                        log_probs[s][w] += logps[w]
                        if not logps[w] > -math.inf:  # nothing was allowed, or NaN: no hypothesis
                            open_rows[s].remove(w)
                        elif ids[w] == rules.eos_id:
                            open_rows[s].remove(w)
                            penalty = length_penalty(n, config.length_penalty, config.length_penalty_form)
                            path = tgt_BWT[b, w if n > 1 else 0, 1:].tolist()
                            finished[s].append(Hypothesis(path, log_probs[s][w] / penalty, log_probs[s][w]))
                prefix_BWT = np.broadcast_to(tgt_BWT, (len(live), W, n))
                tgt_BWT = np.concatenate([prefix_BWT, ids_BW[:, :, None]], axis=2)
            unseen = []

            # 3. Drop the sentences that are finished.
            live = [s if s is not None and open_rows[s] else None for s in live]
            staying_B = staying(live)
            if not len(staying_B):
                break
            if len(staying_B) < len(live):
                live, tgt_BWT = [live[b] for b in staying_B], tgt_BWT[staying_B]
                keep_B = torch.from_numpy(staying_B).to(device)
                id_BW = id_BW[numbers(keep_B)]

        # 4. Open the rows of the samples after the first step.
        if keep_B is not None or (length == 1 and W > 1):
            first_W = torch.arange(W, device=device) if length > 1 else torch.zeros(W, dtype=torch.int64, device=device)
            state.select(keep_B, first_W.expand(len(live), W))
    return finished


def _draws(streams: list[list[Random]], live: Sequence[int | None], num_steps: int, W: int) -> Tensor:
    """Return the numbers that some steps draw by (N, B, W), float64: each row's from its own stream, in order."""
    draws = [
        [[0.0] * W if s is None else [stream.random() for stream in streams[s]] for s in live] for _ in range(num_steps)
    ]
    return torch.tensor(draws, dtype=torch.float64)


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
