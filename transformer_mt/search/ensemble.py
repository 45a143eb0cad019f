"""Several models that search together: to it they are one more scorer.

Shapes: B sentences, W hypotheses, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal

import torch
from torch import Tensor

from transformer_mt.search.scorer import StateT, StepScorer


@dataclass
class EnsembleState(Generic[StateT]):
    states: list[StateT]  # of each model

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        for state in self.states:
            state.select(keep_B, parents_BW)

    def make_room(self, num_positions: int) -> None:
        for state in self.states:
            state.make_room(num_positions)


class Ensemble(Generic[StateT]):
    """Several models with one target vocabulary, on one device, as one scorer.

    ``linear`` takes the mean of their probabilities, ``log_linear`` the mean of their log-probabilities, normalised
    again, so that one model can rule out what the others would take.
    """

    def __init__(self, scorers: Sequence[StepScorer[StateT]], how: Literal["linear", "log_linear"]) -> None:
        self._scorers, self._how = scorers, how

    @property
    def device(self) -> torch.device:
        return self._scorers[0].device

    def start(self, src: list[list[int]]) -> EnsembleState[StateT]:
        return EnsembleState([scorer.start(src) for scorer in self._scorers])

    def step(self, state: EnsembleState[StateT], last_BW: Tensor) -> Tensor:
        first, *others = zip(self._scorers, state.states, strict=True)
        sum_BWV = first[0].step(first[1], last_BW)
        for scorer, own in others:
            logp_BWV = scorer.step(own, last_BW)
            if self._how == "linear":
                torch.logaddexp(sum_BWV, logp_BWV, out=sum_BWV)
            else:
                sum_BWV += logp_BWV
        if self._how == "linear":
            return sum_BWV.sub_(math.log(len(self._scorers)))
        return sum_BWV.div_(len(self._scorers)).log_softmax(-1)
