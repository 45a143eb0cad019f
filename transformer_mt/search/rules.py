"""What a translation may not have: ids that are never written, repeats, an end that comes too early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transformer_mt.config.sections import SearchConfig
from transformer_mt.search.scorer import Ints, is_on_host

# Steps from one look at what search has found to the next, where looking waits for the device, which then waits for the
# host; twice as many while nothing can end. A sentence that is done is searched on until the next look.
STEPS_A_LOOK = 4


@dataclass
class Rules:
    """The rules of what a hypothesis may not be, whatever the model thinks of it."""

    config: SearchConfig
    limits: list[int]  # ids of each sentence's hypotheses at most, `</s>` included
    prefixes: list[list[int]]
    forbidden: Tensor
    eos_id: int

    def __post_init__(self) -> None:
        # No sentence ends inside of its prefix, nor with too few tokens, and at its limit each has ended.
        soonest = [min(self.config.min_tokens + 1, limit) for limit in self.limits]
        prefixed = [len(prefix) + 1 for prefix in self.prefixes]
        self._none_before = min(map(max, prefixed, soonest))
        self._all_by = max(map(max, prefixed, self.limits))
        self._free = range(max(prefixed), min(self.limits))  # lengths at which no sentence has one id only
        self._only: dict[int, tuple[Tensor, Tensor]] = {}  # until the next look, see `_forced`

    def look_ahead(self, live: Sequence[int | None], length: int) -> int:
        """Return the length of the hypotheses at which the host must look next, and prepare the steps until then.

        ``length`` is that of the step to come, ``live`` the sentences of the batch's rows until then.
        """
        look_at, free = length, self._free
        if not is_on_host(self.forbidden.device) and not self.config.no_repeat_ngram:  # whose rule is the host's
            steps = min(max(STEPS_A_LOOK, self._none_before - length + 1), 2 * STEPS_A_LOOK)
            look_at = max(length, min(length + steps - 1, self._all_by))
        self._only = {} if length in free and look_at in free else self._forced(live, range(length, look_at + 1))
        return look_at

    def _forced(self, live: Sequence[int | None], lengths: range) -> dict[int, tuple[Tensor, Tensor]]:
        """Return, by length, the sentences of the batch that have one id left to them, and that id."""
        by_length: dict[int, list[tuple[int, int]]] = {}
        for b, s in enumerate(live):
            if s is not None:
                prefix = self.prefixes[s]
                for n in lengths:
                    if n <= len(prefix):
                        by_length.setdefault(n, []).append((b, prefix[n - 1]))
                    elif n >= self.limits[s]:
                        by_length.setdefault(n, []).append((b, self.eos_id))
        if not by_length:
            return {}
        pairs = torch.tensor([pair for pairs in by_length.values() for pair in pairs]).to(self.forbidden.device)
        parts = pairs.split([len(pairs) for pairs in by_length.values()])
        return {n: (part[:, 0], part[:, 1]) for n, part in zip(by_length, parts, strict=True)}

    def apply(self, logp_BWV: Tensor, length: int, tgt_BWT: Ints) -> None:
        """Put -inf, in place, for every id that may not come next in hypotheses that may end with ``length`` ids.

        ``tgt_BWT`` are the rows at the last look (with `<s>`). Where rules contradict each other, a prefix is kept
        first, then the limit, then the rest.
        """
        only = self._only.get(length)
        if only is not None:
            b_E, id_E = only
            kept_EW = logp_BWV[b_E, :, id_E]
        logp_BWV.index_fill_(-1, self.forbidden, -math.inf)
        if length <= self.config.min_tokens:
            logp_BWV[:, :, self.eos_id] = -math.inf
        if self.config.no_repeat_ngram:
            index_E = torch.from_numpy(self._repeating(tgt_BWT, logp_BWV.shape[2])).to(logp_BWV.device)
            logp_BWV.view(-1).index_fill_(0, index_E, -math.inf)
        if only is not None:
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
