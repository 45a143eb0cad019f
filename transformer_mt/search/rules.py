"""What a translation may not have: ids that are never written, repeats, an end that comes too early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.search.scorer import Ints


@dataclass(frozen=True)
class Rules:
    """The rules of what a hypothesis may not be, whatever the model thinks of it."""

    config: SearchConfig
    limits: list[int]  # ids of each sentence's hypotheses at most, `</s>` included
    prefixes: list[list[int]]
    forbidden: Tensor
    eos_id: int

    def apply(self, logp_BWV: Tensor, live: Sequence[int | None], tgt_BWT: Ints) -> None:
        """Put -inf, in place, for every id that may not come next.

        ``tgt_BWT`` are the rows so far (with `<s>`) of the sentences ``live``. Where rules contradict each other, a
        prefix is kept first, then the limit, then the rest.
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
            index_E = torch.from_numpy(self._repeating(tgt_BWT, logp_BWV.shape[2])).to(logp_BWV.device)
            logp_BWV.view(-1).index_fill_(0, index_E, -math.inf)
        if only:
            logp_BWV[b_E] = -math.inf
            logp_BWV[b_E, :, id_E] = kept_EW

    def _repeating(self, tgt_BWT: Ints, V: int) -> Ints:
        """Return the flat indices into (B, W, V) of the ids that would end an n-gram for a second time."""
        n = self.config.no_repeat_ngram
        ids_BWT = tgt_BWT[:, :, 1:]
        if ids_BWT.shape[2] < n:
            return np.empty(0, dtype=np.int64)
        window_BWTN = np.lib.stride_tricks.sliding_window_view(ids_BWT, n, axis=2)
        last_BW1N = ids_BWT[:, :, None, ids_BWT.shape[2] - n + 1 :]
        b, w, t = (window_BWTN[..., : n - 1] == last_BW1N).all(axis=3).nonzero()
        index: Ints = (b * tgt_BWT.shape[1] + w) * V + window_BWTN[b, w, t, n - 1]
        return index
