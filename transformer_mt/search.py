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
from random import Random
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.config import SearchConfig
from transformer_mt.errors import RunError

PenaltyForm = Literal["gnmt", "power"]
StopRule = Literal["bound", "beam_finished"]


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
        over all V, in a tensor that the caller may overwrite."""


class Hypothesis(NamedTuple):
    """A finished translation."""

    ids: list[int]  # without `</s>`
    score: float  # log_prob / length penalty: what hypotheses are ranked by
    log_prob: float  # of all its ids and `</s>`


@torch.no_grad()
def search(
    scorer: StepScorer[StateT],
    src: list[list[int]],
    config: SearchConfig,
    *,
    bos_id: int,
    eos_id: int,
    forbidden_ids: Sequence[int] = (),
    max_length: int | None = None,
) -> list[list[Hypothesis]]:
    """Translate a batch; return the hypotheses of each sentence, best first, at most `n_best` of them, at least one.

    Beam search returns distinct hypotheses: fewer than `n_best` where there are no more. Samples are independent, so
    they may repeat. `forbidden_ids` are never produced; the log-probabilities of the others are left as they are.
    `max_length` caps the ids of a hypothesis, `</s>` included, where a model has no more positions.

    Raises:
        RunError: a sentence has no hypothesis of non-zero probability, as happens when the model yields NaN.
    """
    if eos_id in forbidden_ids:
        raise ValueError(f"forbidden_ids contains eos_id ({eos_id}): no hypothesis could end")
    if not src:
        return []
    find = _follow_paths if config.sampling or config.beam_size == 1 else _beam_search
    forbidden = torch.tensor(forbidden_ids, dtype=torch.int64, device=scorer.device)
    limits = [min(len(ids) + config.max_extra_tokens, max_length or sys.maxsize) for ids in src]
    found = find(scorer, src, limits, config, bos_id, eos_id, forbidden)
    for number, hypotheses in enumerate(found):
        if not hypotheses:
            raise RunError(
                f"search: sentence {number} of the batch ({len(src[number])} ids) has no translation: the model gives "
                f"NaN or zero probability; use another checkpoint, or float32 where a lower precision was chosen"
            )
    # Sorting is stable: of equal scores the one found earlier comes first.
    return [sorted(hypotheses, key=lambda h: -h.score)[: config.n_best] for hypotheses in found]


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
    scorer: StepScorer[StateT],
    src: list[list[int]],
    limits: list[int],
    config: SearchConfig,
    bos_id: int,
    eos_id: int,
    forbidden: Tensor,
) -> list[list[Hypothesis]]:
    """Beam search; the finished hypotheses of each sentence in the order in which they were found.

    A candidate that ends is a hypothesis when it is among the best W candidates of its step. It takes no place in the
    beam: W others continue (as in fairseq).
    """
    W, device = config.beam_size, scorer.device
    alpha, form = config.length_penalty, config.length_penalty_form
    finished: list[list[Hypothesis]] = [[] for _ in src]
    live = list(range(len(src)))  # the sentence of each batch row
    state = scorer.start(src)
    tgt_BWT = torch.full((len(src), 1, 1), bos_id, device=device)  # int64
    log_prob_BW = torch.zeros(len(src), 1, dtype=torch.float32, device=device)  # -inf: a row that stands for nothing

    for length in itertools.count(1):  # of the hypotheses that end in this step
        # 1. Score every row with every next id.
        score_BWV = scorer.step(state, tgt_BWT[:, :, -1])
        _forbid(score_BWV, forbidden, [b for b, s in enumerate(live) if length >= limits[s]], eos_id)
        score_BWV += log_prob_BW.unsqueeze(-1)

        # 2. Take the best 2W candidates of each sentence: at most W of them end, so W that do not are left.
        score_BK, candidate_BK = best_candidates(score_BWV.flatten(1), 2 * W)
        parent_BK = candidate_BK.div(score_BWV.size(2), rounding_mode="floor")
        id_BK = candidate_BK.remainder(score_BWV.size(2))
        ends_BK = id_BK == eos_id

        # 3. Continue from the best W that do not end. Stable, so equal scores keep the order of their candidates.
        live_BK, rank_BK = score_BK.masked_fill(ends_BK, -math.inf).sort(dim=1, descending=True, stable=True)
        log_prob_BW, rank_BW = live_BK[:, :W], rank_BK[:, :W]
        parents_BW, id_BW = parent_BK.gather(1, rank_BW), id_BK.gather(1, rank_BW)

        # 4. Bring to the host what ended among the best W and the best that is live, in one transfer.
        ended_BW = score_BK[:, :W].masked_fill(~ends_BK[:, :W], -math.inf)
        *ended, best_live = torch.cat([ended_BW, log_prob_BW[:, :1]], dim=1).T.tolist()
        ends = [(b, w) for b in range(len(live)) for w in range(W) if ended[w][b] > -math.inf]

        # 5. Finish what ended.
        if ends:
            b_E, w_E = torch.tensor(ends, device=device).T
            for (b, w), ids in zip(ends, tgt_BWT[b_E, parent_BK[b_E, w_E], 1:].tolist(), strict=True):
                log_prob = ended[w][b]
                score = log_prob / length_penalty(length, alpha, form)
                finished[live[b]].append(Hypothesis(ids, score, log_prob))

        # 6. Drop the sentences that are done. At its limit a sentence has nothing live and is done.
        keep = [
            b
            for b, s in enumerate(live)
            if best_live[b] > -math.inf
            and not is_done(finished[s], config, best_reachable(best_live[b], length, limits[s], alpha, form))
        ]
        if not keep:
            break

        # 7. Move everything to the rows that continue.
        keep_B = None
        if len(keep) < len(live):
            keep_B = torch.tensor(keep, device=device)
            live = [live[b] for b in keep]
            tgt_BWT, parents_BW, id_BW, log_prob_BW = (
                rows[keep_B] for rows in (tgt_BWT, parents_BW, id_BW, log_prob_BW)
            )
        state.select(keep_B, parents_BW)
        prefix_BWT = tgt_BWT.gather(1, parents_BW.unsqueeze(-1).expand(-1, -1, length))
        tgt_BWT = torch.cat([prefix_BWT, id_BW.unsqueeze(-1)], dim=2)

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


def best_candidates(score_BC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best scores of each row and their places, best first; of equal scores the first places.

    `topk` alone promises no order among equal scores, and on a GPU its choice may depend on the number of rows. Where a
    row has fewer scores, -inf at place 0 fills up.
    """
    C = score_BC.size(1)
    k = min(count, C)
    top_BK, place_BK = score_BC.topk(min(k + 1, C))
    if k < C:
        # Only a tie between the last that is in and the first that is out leaves a choice: settle it by place.
        tied_B = ((top_BK[:, k - 1] == top_BK[:, k]) & (top_BK[:, k] > -math.inf)).nonzero().squeeze(1)
        place_BK = place_BK[:, :k]
        if len(tied_B):
            tied_BC, last_B1 = score_BC[tied_B], top_BK[tied_B, k - 1].unsqueeze(1)
            first_places_C = torch.arange(C - 1, -1, -1, device=score_BC.device)
            order_BC = torch.where(tied_BC == last_B1, first_places_C, -1).masked_fill(tied_BC > last_B1, C)
            place_BK[tied_B] = order_BC.topk(k).indices
    place_BK = place_BK.sort(dim=1).values
    top_BK, order_BK = score_BC.gather(1, place_BK).sort(dim=1, descending=True, stable=True)
    missing = (0, count - k)
    return F.pad(top_BK, missing, value=-math.inf), F.pad(place_BK.gather(1, order_BK), missing)


def _forbid(logp_BWV: Tensor, forbidden: Tensor, at_limit: list[int], eos_id: int) -> None:
    """In place: -inf for the forbidden ids, and for all but `</s>` in sentences that must end with this step."""
    logp_BWV.index_fill_(-1, forbidden, -math.inf)
    if at_limit:
        b_B = torch.tensor(at_limit, device=logp_BWV.device)
        eos_BW = logp_BWV[b_B, :, eos_id]
        logp_BWV[b_B] = -math.inf
        logp_BWV[b_B, :, eos_id] = eos_BW


def _follow_paths(
    scorer: StepScorer[StateT],
    src: list[list[int]],
    limits: list[int],
    config: SearchConfig,
    bos_id: int,
    eos_id: int,
    forbidden: Tensor,
) -> list[list[Hypothesis]]:
    """Greedy search and sampling: each row follows one path to its first `</s>`.

    Each sample draws from a random stream of its own, keyed by the seed, its number and the ids of its source: batch
    and order do not change it, and equal sources get equal samples.
    """
    W, device = config.n_best if config.sampling else 1, scorer.device
    streams = [[Random(f"{config.seed} {w} {ids}") for w in range(W)] for ids in src]
    paths: list[list[list[int]]] = [[[] for _ in range(W)] for _ in src]
    log_probs = [[0.0] * W for _ in src]
    open_rows = [set(range(W)) for _ in src]  # a closed row is still fed, and ignored, until its sentence is finished
    finished: list[list[Hypothesis]] = [[] for _ in src]
    live = list(range(len(src)))
    state = scorer.start(src)
    last_BW = torch.full((len(src), 1), bos_id, device=device)  # int64

    for length in itertools.count(1):
        # 1. Choose one id for every row; the first step has one row for all.
        logp_BWV = scorer.step(state, last_BW)
        _forbid(logp_BWV, forbidden, [b for b, s in enumerate(live) if length >= limits[s]], eos_id)
        logp_BWV = logp_BWV.expand(-1, W, -1)
        if config.sampling:
            draw_BW = torch.tensor([[stream.random() for stream in streams[s]] for s in live], dtype=torch.float64)
            last_BW = sample(logp_BWV, draw_BW.to(device), config)
        else:
            last_BW = logp_BWV.argmax(dim=-1)  # of equal ones the first
        logp_BW = logp_BWV.gather(2, last_BW.unsqueeze(-1)).squeeze(-1)

        # 2. Append it to its path, or close the path.
        for s, ids, logps in zip(live, last_BW.tolist(), logp_BW.tolist(), strict=True):
            for w in sorted(open_rows[s]):
                log_probs[s][w] += logps[w]
                paths[s][w].append(ids[w])
                if not logps[w] > -math.inf:  # nothing was allowed, or NaN: no hypothesis
                    open_rows[s].remove(w)
                elif ids[w] == eos_id:
                    open_rows[s].remove(w)
                    score = log_probs[s][w] / length_penalty(length, config.length_penalty, config.length_penalty_form)
                    finished[s].append(Hypothesis(paths[s][w][:-1], score, log_probs[s][w]))

        # 3. Drop the sentences that are finished, and open the rows of the samples after the first step.
        keep = [b for b, s in enumerate(live) if open_rows[s]]
        if not keep:
            break
        keep_B = torch.tensor(keep, device=device) if len(keep) < len(live) else None
        if keep_B is not None:
            live, last_BW = [live[b] for b in keep], last_BW[keep_B]
        if length == 1 and W > 1:
            state.select(keep_B, torch.zeros_like(last_BW))
        elif keep_B is not None:
            state.select(keep_B, torch.arange(W, device=device).expand(len(keep), W))
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
