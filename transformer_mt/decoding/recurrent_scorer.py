"""A recurrent model as search sees it: the training model itself, one position a step.

There is no fast path as `engine` is one for the Transformer, and none is needed: what a hypothesis has behind it is one
state a layer.

Shapes: B sentences, W hypotheses of each, S source, D d_model, V vocabulary (padded).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.decoding.engine import VOCAB_MULTIPLE
from transformer_mt.errors import InputError
from transformer_mt.model.layout import Layout
from transformer_mt.model.recurrent import Memory, Recurrent
from transformer_mt.system.device import autocast


@dataclass
class RecurrentState:
    """Encoded sources, and of every hypothesis the states of the decoder's layers."""

    memory: Memory
    layers: list[Tensor]  # (B, W, D)

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        """Keep only the sentences ``keep_B`` (None: all); then row w of sentence b continues row parents_BW[b, w]."""
        if keep_B is not None:
            tensors = {name: x for name, x in vars(self.memory).items() if x is not None}
            self.memory = replace(self.memory, **{name: x.index_select(0, keep_B) for name, x in tensors.items()})
            self.layers = [states_BWD.index_select(0, keep_B) for states_BWD in self.layers]
        index_BWD = parents_BW.unsqueeze(-1).expand(-1, -1, self.layers[0].shape[2])
        self.layers = [states_BWD.gather(1, index_BWD) for states_BWD in self.layers]

    def make_room(self, num_positions: int) -> None:
        """States have one size, however long a translation is."""


class RecurrentScorer:
    """One `Recurrent`, as it is now: when the model has changed, another scorer is needed."""

    def __init__(self, model: Recurrent, precision: str) -> None:
        if precision == "int8":
            raise InputError(
                "search.precision int8: only for model.kind transformer, and this model is recurrent; take float32"
            )
        self._model, self._precision = copy.deepcopy(model).eval().requires_grad_(False), precision

    @property
    def device(self) -> torch.device:
        return self._model.src_embed.weight.device

    def bytes_a_sentence(self, source_length: int, target_length: int, num_hypotheses: int) -> int:
        """Estimate the bytes that search takes for a sentence: what is kept of it, its attention, log-probabilities."""
        D, size = self._model.config.d_model, 4
        # Additive attention makes a sum and its tanh of each state of the source, for each hypothesis.
        tables = 2 + 2 * num_hypotheses if self._model.config.recurrent_attention == "additive" else 2
        states = 2 * len(self._model.decoder) * num_hypotheses
        return (
            tables * source_length + states
        ) * D * size + num_hypotheses * self._model.generator.out_features * 3 * size

    def start(self, src: list[list[int]]) -> RecurrentState:
        """Encode sources; a state with one row a sentence, before the first position."""
        layout = Layout.packed([len(ids) for ids in src])
        ids_R = torch.zeros(layout.num_rows, dtype=torch.int64)
        ids_R[: layout.num_real] = torch.tensor([number for ids in src for number in ids])
        moved = replace(layout, positions_P=layout.positions_P.to(self.device), offsets=layout.offsets.to(self.device))
        with autocast(self.device, self._precision):
            memory = self._model.encode(ids_R.to(self.device), moved)
            return RecurrentState(memory, [state_BD.unsqueeze(1) for state_BD in self._model.start(memory)])

    def step(self, state: RecurrentState, last_BW: Tensor) -> Tensor:
        """Feed one id to each row; the log-probabilities (B, W, V) of the next, -inf in the columns of padding."""
        with autocast(self.device, self._precision):
            hidden_BWD, state.layers = self._model.step(last_BW, state.layers, state.memory)
            logits_BWV = self._model.generator(hidden_BWD)
        # As wide as an `Engine`'s, so that both can be in one ensemble.
        padding = -logits_BWV.shape[-1] % VOCAB_MULTIPLE
        return F.pad(logits_BWV.float().log_softmax(-1), (0, padding), value=-math.inf)
