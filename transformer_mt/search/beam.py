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
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transformer_mt.config.sections import SearchConfig
from transformer_mt.errors import RunError
from transformer_mt.search.hypothesis import Hypothesis
from transformer_mt.search.rules import Rules
from transformer_mt.search.sampling import follow_paths
from transformer_mt.search.scorer import (
    Array,
    Ints,
    StateT,
    StepScorer,
    is_on_host,
    numbers,
    on_host,
    stable_order,
    staying,
)
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

    All that the next step needs stays on the scorer's device. On a GPU the host looks now and then only.
    """
    W, device = config.beam_size, scorer.device
    state, seen = scorer.start(src), _Seen.nothing(len(src), config, rules, bos_id)
    xp: Any = np if is_on_host(device) else torch  # what goes with `numbers`
    b_B1 = numbers(torch.arange(len(src), device=device))[:, None]
    id_BW = numbers(torch.full((len(src), 1), bos_id, device=device))
    log_prob_BW = numbers(torch.zeros(len(src), 1, device=device))  # -inf: a row that stands for nothing
    unseen: list[list[Any]] = []  # what was found in each step since the last look
    look_at = 0

    for length in itertools.count(1):  # of the hypotheses that end in this step
        if length > look_at:
            look_at = rules.look_ahead(seen.live, length)
            state.make_room((look_at - length + 1) * W)

        # 1. Score every row with every next id.
        logp_BWV = scorer.step(state, torch.as_tensor(id_BW))
        rules.apply(logp_BWV, length, seen.tgt_BWT)

        # 2. Take the best 2W candidates of each sentence: at most W of them end, so W that do not are left.
        score_BK, candidate_BK = best_continuations(logp_BWV, torch.as_tensor(log_prob_BW), 2 * W)
        parent_BK = candidate_BK // logp_BWV.shape[2]
        id_BK = candidate_BK - parent_BK * logp_BWV.shape[2]
        ends_BK = id_BK == rules.eos_id

        # 3. Finish what ends among the best W.
        ended_BW = xp.where(ends_BK[:, :W], score_BK[:, :W], -math.inf)

        # 4. Continue from the best W that do not end. Stable, so equal scores keep the order of their candidates.
        rank_BW = stable_order(ends_BK)[:, :W]
        log_prob_BW = xp.where(ends_BK, -math.inf, score_BK)[b_B1, rank_BW]
        parents_BW = parent_BK[b_B1, rank_BW]
        # What stands for nothing is fed on like the rest: with an id that there is, which a column of padding is not.
        id_BW = xp.where(log_prob_BW > -math.inf, id_BK[b_B1, rank_BW], rules.eos_id)
        unseen.append([ended_BW, parent_BK[:, :W], log_prob_BW, parents_BW, id_BW])
        if length < look_at:
            state.select(None, torch.as_tensor(parents_BW))
            continue

        # 5. Look at these steps, and see which sentences are done.
        for n, found in enumerate(on_host(unseen), length + 1 - len(unseen)):
            seen.add(n, *found)
        unseen = []

        # 6. Drop them, a part of the batch at a time: until then their rows stand for nothing.
        done = [b for b, s in enumerate(seen.live) if s is None]
        staying_B, keep_B = staying(seen.live), None
        if not len(staying_B):
            break
        if done:
            log_prob_BW[done] = -math.inf
        if len(staying_B) < len(seen.live):
            seen.keep(staying_B)
            keep_B = torch.from_numpy(staying_B).to(device)
            parents_BW, id_BW, log_prob_BW = (x[numbers(keep_B)] for x in (parents_BW, id_BW, log_prob_BW))
            b_B1 = b_B1[: len(staying_B)]

        # 7. Move everything to the rows that continue.
        state.select(keep_B, torch.as_tensor(parents_BW))

    if config.stop == "beam_finished":  # the first W only, as the step that finishes the last of them may find more
        return [hypotheses[:W] for hypotheses in seen.finished]
    return seen.finished


@dataclass
class _Seen:
    """What the host has seen of a search, step by step. After a sentence is done, what its rows bring is nothing."""

    config: SearchConfig
    rules: Rules
    finished: list[list[Hypothesis]]
    live: list[int | None]  # the sentence of each batch row; None: it is done
    tgt_BWT: Ints

    @classmethod
    def nothing(cls, num_sentences: int, config: SearchConfig, rules: Rules, bos_id: int) -> _Seen:
        finished: list[list[Hypothesis]] = [[] for _ in range(num_sentences)]
        return cls(config, rules, finished, list(range(num_sentences)), np.full((num_sentences, 1, 1), bos_id))

    def add(
        self, length: int, ended_BW: Array, of_BW: Array, log_prob_BW: Array, parents_BW: Array, id_BW: Array
    ) -> None:
        """Take in one step: what has ended with ``length`` ids, from which rows, and what continues from which."""
        config, live, finished = self.config, self.live, self.finished
        alpha, form = config.length_penalty, config.length_penalty_form
        for b, k in zip(*(x.tolist() for x in (ended_BW > -math.inf).nonzero()), strict=True):
            s, log_prob = live[b], float(ended_BW[b, k])
            if s is not None:
                ids = self.tgt_BWT[b, of_BW[b, k], 1:].tolist()
                finished[s].append(Hypothesis(ids, log_prob / length_penalty(length, alpha, form), log_prob))

        # At its limit a sentence has nothing live and is done. With fewer finished than these, none is.
        enough = config.beam_size if config.stop == "beam_finished" else config.n_best
        best_live_B = log_prob_BW.max(axis=1).tolist()
        for b, s in enumerate(live):
            if s is not None and (
                not best_live_B[b] > -math.inf  # so is NaN
                or (
                    len(finished[s]) >= enough
                    and is_done(
                        finished[s], config, best_reachable(best_live_B[b], length, self.rules.limits[s], alpha, form)
                    )
                )
            ):
                live[b] = None

        prefix_BWT = self.tgt_BWT[np.arange(len(self.live))[:, None], parents_BW]
        self.tgt_BWT = np.concatenate([prefix_BWT, id_BW[:, :, None]], axis=2)

    def keep(self, rows: Ints) -> None:
        """Keep some of the batch's sentences."""
        self.live, self.tgt_BWT = [self.live[b] for b in rows], self.tgt_BWT[rows]
