"""What the Transformer argues against: recurrent encoder and decoder, with attention over the source or without.

- A bidirectional encoder and a decoder of gated recurrent units (Cho et al. 2014, arXiv 1406.1078).
- The decoder in the form of GNMT (Wu et al. 2016, arXiv 1609.08144, section 3): the states of its lowest layer are the
  queries of the attention, and what that finds, the context, goes to the layers above and to the output. No recurrence
  contains the attention, so that in training only the recurrences themselves run position by position.
- ``recurrent_attention: none``: the context is the same at each position, the encoder's two last states (Cho et al.).

Embeddings, their ties and the loss are the Transformer's. There are no positions, norms or feed-forward layers.

Shapes: B sequences, L positions of the target, M of the source, D d_model, E a width, W hypotheses, J = B·W, N layers;
packed rows (see `Layout`): R of the source, P of the target (or of either), K real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from transformer_mt.config.sections import ModelConfig
from transformer_mt.model.attention import AttentionWeights
from transformer_mt.model.layout import Batch, Layout
from transformer_mt.model.transformer import EncoderDecoder

_BLOCK = 1 << 20  # numbers that additive attention makes at once: a table of D of them for each query and key


class SourceAttention(nn.Module):
    """How well a state of the decoder and one of the encoder match, from which the softmax makes weights.

    - ``additive`` (Bahdanau et al. 2015, arXiv 1409.0473, appendix A.1.2): v · tanh(W s + U h).
    - ``dot`` (Luong et al. 2015, arXiv 1508.04025, "general", its matrix in two factors): (W s) · (U h) / √D, scaled as
      the Transformer's. So the two kinds differ in nothing but v and tanh.

    The context is the weighted sum of the encoder's states themselves.
    """

    def __init__(self, d_model: int, kind: Literal["additive", "dot"]) -> None:
        super().__init__()
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v = nn.Linear(d_model, 1, bias=False) if kind == "additive" else None

    def forward(self, states_BLD: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return contexts (B, L, D) and weights (B, L, M)."""
        assert memory.keys_BMD is not None
        q_BLD, k_BMD = self.q_proj(states_BLD), memory.keys_BMD
        if self.v is None:
            scores_BLM = q_BLD @ k_BMD.mT / math.sqrt(q_BLD.shape[-1])
        else:
            num_queries = max(1, _BLOCK // k_BMD.numel())
            blocks = [
                self.v(torch.tanh(block_BQD.unsqueeze(2) + k_BMD.unsqueeze(1))).squeeze(3)
                for block_BQD in q_BLD.split(num_queries, dim=1)
            ]
            scores_BLM = torch.cat(blocks, dim=1)
        if memory.bias_BM is not None:
            scores_BLM = scores_BLM + memory.bias_BM.unsqueeze(1)
        weights_BLM = scores_BLM.softmax(-1).to(memory.states_BMD.dtype)
        return weights_BLM @ memory.states_BMD, weights_BLM


@dataclass
class Memory:
    """The encoder's output as the decoder needs it."""

    last_BD: Tensor  # the last states of both directions, side by side
    states_BMD: Tensor  # of all positions
    keys_BMD: Tensor | None  # the same, projected; None without attention
    bias_BM: Tensor | None  # 0 at real positions, -inf at padding; None where there is no padding


class Recurrent(EncoderDecoder):
    """Encoder and decoder of recurrent layers."""

    def __init__(self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
        super().__init__(config, src_vocab_size, tgt_vocab_size)
        D, N, kind = config.d_model, config.num_decoder_layers, config.recurrent_attention
        self.encoder = nn.ModuleList(
            [nn.GRU(D, D // 2, bidirectional=True, batch_first=True) for _ in range(config.num_encoder_layers)]
        )
        self.first_states = nn.Linear(D, N * D)  # of the decoder's layers (Bahdanau et al., appendix A.2.2)
        self.decoder = nn.ModuleList([nn.GRU(D if n == 0 else 2 * D, D, batch_first=True) for n in range(N)])
        self.attention = None if kind == "none" else SourceAttention(D, kind)
        self.readout = nn.Linear(2 * D, D)  # Luong et al., equation 5
        self._tie(config.tie_embeddings)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all weights from torch's generator.

        Embeddings as the Transformer's, matrices uniform Xavier, those of the recurrences orthogonal (Saxe et al. 2014)
        for each gate, biases 0.
        """
        for name, parameter in self.named_parameters():
            if "embed" in name or name == "generator.weight":
                nn.init.normal_(parameter, std=self.config.d_model**-0.5)
            elif "bias" in name:
                nn.init.zeros_(parameter)
            elif "weight_hh" in name:
                for gate in parameter.detach().chunk(3):
                    nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                for gate in parameter.detach().chunk(3):
                    nn.init.xavier_uniform_(gate)
            else:
                nn.init.xavier_uniform_(parameter)

    @property
    def layers(self) -> list[nn.Module]:
        return [*self.encoder, *self.decoder]

    def encode(self, src_ids_R: Tensor, layout: Layout) -> Memory:
        x_RD, steps = self.embed(self.src_embed, src_ids_R), _Steps.of(layout)
        last_BD = x_RD
        for n, layer in enumerate(self.encoder):
            out_RD, last_BD = steps.run(layer, x_RD, None)
            x_RD = out_RD if n == 0 else self.dropout.add(x_RD, out_RD)
        states_BMD = layout.unpack(x_RD)
        keys_BMD = None if self.attention is None else self.attention.k_proj(states_BMD)
        return Memory(last_BD, states_BMD, keys_BMD, layout.bias_BL)

    def decode(self, tgt_in_P: Tensor, layout: Layout, memory: Memory) -> Tensor:
        return self._decode(tgt_in_P, layout, memory)[0]

    def _decode(self, tgt_in_P: Tensor, layout: Layout, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Return the decoder's output (P, D) and its attention's weights (B, L, M)."""
        steps, first_NBD = _Steps.of(layout), self.start(memory)

        def recur(n: int, x_PE: Tensor) -> Tensor:
            return steps.run(self.decoder[n], x_PE, first_NBD[n])[0]

        def attend(states_PD: Tensor) -> tuple[Tensor, Tensor | None]:
            context_BLD, weights_BLM = self._attend(layout.unpack(states_PD), memory)
            return layout.pack(context_BLD), weights_BLM

        return self._run(self.embed(self.tgt_embed, tgt_in_P), recur, attend)

    def start(self, memory: Memory) -> list[Tensor]:
        """Return the states (B, D) of the decoder's layers before the first position."""
        return list(torch.tanh(self.first_states(memory.last_BD)).chunk(len(self.decoder), dim=1))

    def step(self, last_BW: Tensor, states_NBWD: list[Tensor], memory: Memory) -> tuple[Tensor, list[Tensor]]:
        """Feed one id to each of W hypotheses a sentence; return the output (B, W, D) and the new states."""
        new_NBWD: list[Tensor] = []

        def recur(n: int, x_BWE: Tensor) -> Tensor:
            rows_J1E, state_1JD = x_BWE.flatten(0, 1).unsqueeze(1), states_NBWD[n].flatten(0, 1).unsqueeze(0)
            new_NBWD.append(self.decoder[n](rows_J1E, state_1JD.contiguous())[0].view_as(states_NBWD[n]))
            return new_NBWD[-1]

        out_BWD, _ = self._run(self.embed(self.tgt_embed, last_BW), recur, lambda x_BWD: self._attend(x_BWD, memory))
        return out_BWD, new_NBWD

    @torch.inference_mode()
    def attention_weights(self, batch: Batch) -> AttentionWeights:
        was_training = self.training
        self.eval()
        try:
            memory = self.encode(batch.src_ids_P, batch.src)
            weights_BLM = self._decode(batch.tgt_in_P, batch.tgt, memory)[1]
        finally:
            self.train(was_training)
        if weights_BLM is None:
            return AttentionWeights(None, None, None)
        if batch.tgt.bias_BL is not None:
            weights_BLM = weights_BLM.masked_fill((batch.tgt.bias_BL != 0).unsqueeze(-1), 0.0)
        return AttentionWeights(None, None, weights_BLM[None, :, None])

    def embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Return embeddings × sqrt(d_model)."""
        out: Tensor = self.dropout(table(ids) * self.scale)
        return out

    def _run(
        self,
        x: Tensor,
        recur: Callable[[int, Tensor], Tensor],
        attend: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    ) -> tuple[Tensor, Tensor | None]:
        """Run the decoder over embeddings: of all positions, or of one, as ``recur`` and ``attend`` do it.

        Args:
            recur: run the layer of that number.
            attend: the contexts of the lowest layer's states, and the weights.
        """
        x = recur(0, x)
        context, weights = attend(x)
        for n in range(1, len(self.decoder)):
            x = self.dropout.add(x, recur(n, torch.cat([self.dropout(x), context.to(x.dtype)], dim=-1)))
        out: Tensor = self.dropout(torch.tanh(self.readout(torch.cat([x, context.to(x.dtype)], dim=-1))))
        return out, weights

    def _attend(self, states_BLD: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        if self.attention is None:
            return memory.last_BD.unsqueeze(1).expand_as(states_BLD), None
        found: tuple[Tensor, Tensor] = self.attention(states_BLD, memory)
        return found


class _Steps(NamedTuple):
    """The rows of a layout in the order in which recurrences run through them: all first positions, all second ones, …

    Sequences stand in the order of their lengths, the longest first, so that those that go on are always the first.
    """

    rows_K: Tensor  # int64, the row of each step
    batch_sizes_L: Tensor  # how many sequences have a first, a second … position; on the host, as PyTorch asks for it
    order_B: Tensor
    places_B: Tensor  # of each sequence in that order

    @classmethod
    def of(cls, layout: Layout) -> _Steps:
        offsets = layout.offsets.cpu().long()  # from a GPU: recurrences are launched by the host's numbers
        lengths_B, order_B = (offsets[1:-1] - offsets[:-2]).sort(descending=True, stable=True)
        positions_L1 = torch.arange(layout.max_length)[:, None]
        is_real_LB = positions_L1 < lengths_B
        rows_K = (offsets[:-2][order_B] + positions_L1)[is_real_LB]
        device = layout.offsets.device
        return cls(rows_K.to(device), is_real_LB.sum(1), order_B.to(device), order_B.argsort().to(device))

    def run(self, layer: nn.Module, x_PE: Tensor, first_BD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run one layer over all positions; return its states (P, D) and the last of each sequence (B, D).

        Both directions stand side by side. The tail is 0.
        """
        weight = next(layer.parameters())
        # Recurrences add up what rounding leaves out, and there is little to win: they stay in the weights' precision.
        with torch.autocast(weight.device.type, enabled=False):
            x_KE = x_PE.to(weight.dtype).index_select(0, self.rows_K)
            first = None if first_BD is None else first_BD.to(weight.dtype).unsqueeze(0)
            out, last_YBD = layer(PackedSequence(x_KE, self.batch_sizes_L, self.order_B, self.places_B), first)
        out_PD = out.data.new_zeros(len(x_PE), out.data.shape[1]).index_copy(0, self.rows_K, out.data)
        return out_PD, last_YBD.transpose(0, 1).flatten(1)
