"""Search, ids in, ids out: its entry, and beam search. Greedy search and sampling are in `sampling`.

Search knows no text, no model and no tokenizer. It asks a `StepScorer` for log-probabilities and tells the scorer's
`SearchState` which rows go on; an ensemble is another scorer. What a sentence gets never depends on its neighbours: its
length limit is its own, equal scores are ordered by a rule, and a finished sentence leaves the batch.

Shape suffixes: B sentences still searched, W rows a sentence (1 at the first step), V vocabulary, T ids so far (with
`<s>`), C = W·V candidates of a sentence, K the best of them.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch

from transformer_mt.config.sections import SearchConfig
from transformer_mt.errors import RunError
from transformer_mt.search.rules import Rules
from transformer_mt.search.sampling import follow_paths
from transformer_mt.search.scorer import Hypothesis, StateT, StepScorer, staying
from transformer_mt.search.scoring import best_continuations, best_reachable, is_done, length_penalty


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
    rules = Rules(config, limits, starts, torch.tensor(forbidden_ids, dtype=torch.int64, device=scorer.device), eos_id)
    find = follow_paths if config.sampling or config.beam_size == 1 else _beam_search
    by_sentence = find(scorer, src, config, rules, bos_id)
    for number, hypotheses in enumerate(by_sentence):
        if not hypotheses:
            raise RunError(
                f"search: sentence {number} of the batch ({len(src[number])} ids) has no translation: the model gives "
                f"NaN or zero probability; use another checkpoint, or float32 where a lower precision was chosen"
            )
    # Sorting is stable: of equal scores the one found earlier comes first.
    return [sorted(hypotheses, key=lambda h: -h.score)[: config.n_best] for hypotheses in by_sentence]


def _beam_search(
    scorer: StepScorer[StateT], src: list[list[int]], config: SearchConfig, rules: Rules, bos_id: int
) -> list[list[Hypothesis]]:
    """Return the finished hypotheses of each sentence in the order in which beam search has found them.

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
        score_BK, candidate_BK = best_continuations(logp_BWV, torch.from_numpy(log_prob_BW).to(device), 2 * W)
        parent_BK, id_BK = np.divmod(candidate_BK, logp_BWV.shape[2])
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
        staying_B, keep_B = staying(live), None
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
