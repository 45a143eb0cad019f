"""The model as search runs it: prepared weights, encoded sources, one position a step.

`Transformer` is written for training, where all positions are there at once. Here one position of every hypothesis is
new, thousands of times over, so everything that does not change is worked out beforehand:

- once a model: projections side by side in one matrix, laid out as the product reads them, in the precision chosen;
- once a sentence: the keys and values of its source, for all its hypotheses together;
- once a position: its key and value. They never move. A sentence's hypotheses share one pool of past positions, and a
  mask says which of them are whose; following the beam moves rows of the mask. Positions that no hypothesis descends
  from are thrown out when the pool is full.

Shapes: B sentences, W hypotheses of each, N = B·W rows, S source, D d_model, H heads, K head size, C columns, V
vocabulary (padded), P positions of a table, R source rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer_mt.attention import MultiHeadAttention
from transformer_mt.layout import PAD_ID
from transformer_mt.linear import Linear, prepare, prepare_weight
from transformer_mt.model import DecoderLayer, EncoderLayer, FeedForward, Transformer

VOCAB_MULTIPLE = 64  # to which the vocabulary is padded: search looks for the best ids block by block
# Attention runs over a multiple of this many positions, the rest masked: PyTorch's softmax of a row that does not
# fill the processor's vectors is ten times slower.
_POSITIONS_MULTIPLE = 16
_FIRST_STEPS = 8  # for which a pool has room when it is made

Function = Callable[[Tensor], Tensor]


@dataclass
class Table:
    """Keys and values (B, H, P, K) of positions that every hypothesis of a sentence may look at."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, like: Tensor, B: int, P: int, heads: _Heads) -> Table:
        """Of like's type and device; nothing is written yet, and what stands there may be NaN."""
        return cls(like.new_empty(B, heads.num, P, heads.d_k), like.new_empty(B, heads.num, P, heads.d_v))

    def write(self, kv_BLC: Tensor, first: int) -> None:
        """Keys and values of L positions, side by side in C columns, from position ``first`` on."""
        (B, L, _), (_, H, _, K) = kv_BLC.shape, self.keys.shape
        places = slice(first, first + L)
        self.keys[:, :, places] = kv_BLC[:, :, : H * K].view(B, L, H, K).transpose(1, 2)
        self.values[:, :, places] = kv_BLC[:, :, H * K :].view(B, L, H, -1).transpose(1, 2)

    def clear(self, first: int, end: int) -> None:
        """Make positions 0: what is masked counts nothing, unless it happens to be NaN."""
        self.keys[:, :, first:end] = 0
        self.values[:, :, first:end] = 0

    def select(self, keep_B: Tensor) -> Table:
        return Table(self.keys.index_select(0, keep_B), self.values.index_select(0, keep_B))

    def repack(self, kept_BP: Tensor, capacity: int) -> Table:
        """A table of another capacity that starts with these positions of each sentence."""

        def repacked(x_BHPK: Tensor) -> Tensor:
            (B, H, _, K), P = x_BHPK.shape, kept_BP.shape[1]
            new_BHPK = x_BHPK.new_empty(B, H, capacity, K)
            new_BHPK[:, :, :P] = x_BHPK.gather(2, kept_BP[:, None, :, None].expand(-1, H, -1, K))
            return new_BHPK

        return Table(repacked(self.keys), repacked(self.values))


@dataclass
class EngineState:
    """What the hypotheses of a batch have in common, and what each has behind it.

    A bias is 0 where a hypothesis may look and -inf elsewhere.
    """

    sources: list[Table]  # per layer
    source_bias_BP: Tensor
    pools: list[Table]  # per layer: the past of all hypotheses of a sentence
    pool_bias_BWP: Tensor
    filled: int  # positions of the pool
    position: int  # the next one of every hypothesis

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        """Keep only the sentences ``keep_B`` (None: all); then row w of sentence b continues row parents_BW[b, w]."""
        if keep_B is not None:
            self.sources = [table.select(keep_B) for table in self.sources]
            self.source_bias_BP = self.source_bias_BP.index_select(0, keep_B)
            self.pools = [table.select(keep_B) for table in self.pools]
            self.pool_bias_BWP = self.pool_bias_BWP.index_select(0, keep_B)
        if self.pool_bias_BWP.shape[1] == 1 == parents_BW.shape[1]:
            return
        capacity = self.pool_bias_BWP.shape[2]
        self.pool_bias_BWP = self.pool_bias_BWP.gather(1, parents_BW.unsqueeze(-1).expand(-1, -1, capacity))

    def add_position(self) -> None:
        """Room for one more position of every hypothesis, which sees itself."""
        W = self.pool_bias_BWP.shape[1]
        if self.filled + W > self.pool_bias_BWP.shape[2]:
            self._make_room(W)
        self.pool_bias_BWP[:, :, self.filled : self.filled + W].diagonal(dim1=1, dim2=2).zero_()
        seen = _rounded(self.filled, _POSITIONS_MULTIPLE)
        self.filled += W
        if self.filled > seen:
            for pool in self.pools:
                pool.clear(seen, _rounded(self.filled, _POSITIONS_MULTIPLE))

    def _make_room(self, W: int) -> None:
        """Throw out the positions that no hypothesis descends from, and leave as much room again as is used."""
        is_used_BP = (self.pool_bias_BWP[:, :, : self.filled] == 0).any(1)
        most = int(is_used_BP.sum(1).max()) if self.filled else 0
        # Stable: the positions in use come first, in their order. A sentence with fewer keeps some that all mask.
        kept_BP = is_used_BP.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        capacity = _rounded(2 * most + _FIRST_STEPS * W, _POSITIONS_MULTIPLE)
        self.pools = [pool.repack(kept_BP, capacity) for pool in self.pools]
        for pool in self.pools:
            pool.clear(most, _rounded(most, _POSITIONS_MULTIPLE))
        bias_BWP = self.pool_bias_BWP.new_full((*self.pool_bias_BWP.shape[:2], capacity), -math.inf)
        bias_BWP[:, :, :most] = self.pool_bias_BWP.gather(2, kept_BP.unsqueeze(1).expand(-1, bias_BWP.shape[1], -1))
        self.pool_bias_BWP, self.filled = bias_BWP, most


class Engine:
    """One `Transformer` as search sees it. Weights are copied where they are rearranged: when the model has changed,
    another engine is needed."""

    def __init__(self, model: Transformer, precision: str) -> None:
        self._model = model  # for its position tables only
        self._scale = model.scale
        self._src_embed_VD, self._tgt_embed_VD = model.src_embed.weight.detach(), model.tgt_embed.weight.detach()
        self._encoder = [_EncoderLayer(layer, precision) for layer in model.encoder.layers]
        self._decoder = [_DecoderLayer(layer, precision) for layer in model.decoder.layers]
        self._encoder_norm, self._decoder_norm = _norm(model.encoder.norm), _norm(model.decoder.norm)
        self._num_ids = model.generator.out_features
        padding = (0, 0, 0, _rounded(self._num_ids, VOCAB_MULTIPLE) - self._num_ids)
        self._generator = prepare_weight(F.pad(model.generator.weight.detach(), padding), None, precision)

    @property
    def device(self) -> torch.device:
        return self._src_embed_VD.device

    def start(self, src: list[list[int]]) -> EngineState:
        """Encode sources; a state with one row a sentence, before the first position."""
        lengths = [len(ids) for ids in src]
        B, S = len(src), max(lengths)
        P = _rounded(S, _POSITIONS_MULTIPLE)
        ids_BS = torch.tensor([[*ids, *[PAD_ID] * (S - len(ids))] for ids in src], device=self.device)
        is_padding_BP = torch.arange(P) >= torch.tensor(lengths).unsqueeze(1)
        bias_BP = torch.zeros(B, P, dtype=self._src_embed_VD.dtype).masked_fill_(is_padding_BP, -math.inf)
        bias_BP = bias_BP.to(self.device)
        positions_SD = self._model.positions("src", S)[:S]
        x_BSD = torch.add(positions_SD, F.embedding(ids_BS, self._src_embed_VD), alpha=self._scale)
        x_RD = x_BSD.view(B * S, -1)
        for encoder_layer in self._encoder:
            x_RD = encoder_layer(x_RD, bias_BP[:, :S])
        memory_RD = self._encoder_norm(x_RD)
        sources, pools = [], []
        for layer in self._decoder:
            sources.append(Table.empty(x_RD, B, P, layer.cross_heads))
            sources[-1].write(layer.project_source(memory_RD).view(B, S, -1), 0)
            sources[-1].clear(S, P)
            pools.append(Table.empty(x_RD, B, 0, layer.own_heads))
        return EngineState(sources, bias_BP, pools, x_RD.new_empty(B, 1, 0), 0, 0)

    def step(self, state: EngineState, last_BW: Tensor) -> Tensor:
        """Feed one id to each row; the log-probabilities (B, W, V) of the next, -inf in the columns of padding."""
        B, W = last_BW.shape
        position_D = self._model.positions("tgt", state.position + 1)[state.position]
        x_ND = torch.add(position_D, F.embedding(last_BW.view(B * W), self._tgt_embed_VD), alpha=self._scale)
        state.add_position()
        state.position += 1
        P = _rounded(state.filled, _POSITIONS_MULTIPLE)
        pool_bias_B1WP, source_bias_B11P = state.pool_bias_BWP[:, None, :, :P], state.source_bias_BP[:, None, None, :]
        for layer, pool, source in zip(self._decoder, state.pools, state.sources, strict=True):
            x_ND = layer.step(x_ND, W, pool, state.filled, pool_bias_B1WP, source, source_bias_B11P)
        logits_NV = self._generator(self._decoder_norm(x_ND))
        logits_NV[:, self._num_ids :] = -math.inf
        torch.log_softmax(logits_NV, -1, out=logits_NV)
        return logits_NV.view(B, W, -1)


@dataclass(frozen=True)
class _Heads:
    """The shape of an attention and its arithmetic: equation 1 for all heads of some queries over one table."""

    num: int
    d_k: int
    d_v: int

    @classmethod
    def of(cls, attention: MultiHeadAttention) -> _Heads:
        return cls(attention.num_heads, attention.d_k, attention.d_v)

    def attend(self, q_BLC: Tensor, table: Table, bias_B1LP: Tensor) -> Tensor:
        """What N = B·L queries, the first columns of ``q_BLC`` and scaled already, find: (N, H·V).

        They look at the first P positions of the table.
        """
        (B, L, _), P, H, K = q_BLC.shape, bias_B1LP.shape[3], self.num, self.d_k
        q = q_BLC[:, :, : H * K].view(B, L, H, K).transpose(1, 2).reshape(B * H, L, K)
        scores = torch.bmm(q, table.keys.flatten(0, 1)[:, :P].mT).view(B, H, L, P)
        weights = scores.add_(bias_B1LP).softmax(-1).view(B * H, L, P)
        out = torch.bmm(weights, table.values.flatten(0, 1)[:, :P])
        return out.view(B, H, L, self.d_v).transpose(1, 2).reshape(B * L, H * self.d_v)


class _FeedForward:
    def __init__(self, ff: FeedForward, precision: str) -> None:
        self._up, self._down = prepare([ff.up], precision), prepare([ff.down], precision)
        self._activation = ff.activation

    def __call__(self, x_ND: Tensor, residual_ND: Tensor) -> Tensor:
        return self._down.add(residual_ND, self._activation(self._up(x_ND)))


class _EncoderLayer:
    """An encoder layer over padded sources."""

    def __init__(self, layer: nn.Module, precision: str) -> None:
        assert isinstance(layer, EncoderLayer)
        own = layer.self_attn
        self._heads = _Heads.of(own)
        self._qkv, self._out = _projections(own, [own.k_proj, own.v_proj], precision)
        self._feed_forward = _FeedForward(layer.ff, precision)
        self._norm1, self._norm2 = _norm(layer.norm1), _norm(layer.norm2)
        self._is_pre_norm = layer.is_pre_norm

    def __call__(self, x_RD: Tensor, bias_BS: Tensor) -> Tensor:
        if self._is_pre_norm:
            x_RD = self._attend(self._norm1(x_RD), bias_BS, x_RD)
            return self._feed_forward(self._norm2(x_RD), x_RD)
        x_RD = self._norm1(self._attend(x_RD, bias_BS, x_RD))
        return self._norm2(self._feed_forward(x_RD, x_RD))

    def _attend(self, x_RD: Tensor, bias_BS: Tensor, residual_RD: Tensor) -> Tensor:
        (B, S), heads = bias_BS.shape, self._heads
        qkv_BSC = self._qkv(x_RD).view(B, S, -1)
        q, k, v = (
            part.unflatten(-1, (heads.num, -1)).transpose(1, 2)
            for part in qkv_BSC.split([heads.num * heads.d_k, heads.num * heads.d_k, heads.num * heads.d_v], dim=-1)
        )
        out = F.scaled_dot_product_attention(q, k, v, bias_BS[:, None, None, :], scale=1.0)
        return self._out.add(residual_RD, out.transpose(1, 2).reshape(B * S, -1))


class _DecoderLayer:
    """A decoder layer, one position at a time."""

    def __init__(self, layer: nn.Module, precision: str) -> None:
        assert isinstance(layer, DecoderLayer)
        own, cross = layer.self_attn, layer.cross_attn
        self.own_heads, self.cross_heads = _Heads.of(own), _Heads.of(cross)
        self._qkv, self._own_out = _projections(own, [own.k_proj, own.v_proj], precision)
        self._q, self._cross_out = _projections(cross, [], precision)
        self.project_source = prepare([cross.k_proj, cross.v_proj], precision)
        self._feed_forward = _FeedForward(layer.ff, precision)
        self._norm1, self._norm2, self._norm3 = _norm(layer.norm1), _norm(layer.norm2), _norm(layer.norm3)
        self._is_pre_norm = layer.is_pre_norm

    def step(
        self,
        x_ND: Tensor,
        W: int,
        pool: Table,
        filled: int,
        pool_bias_B1WP: Tensor,
        source: Table,
        source_bias_B11P: Tensor,
    ) -> Tensor:
        """(N, D) -> (N, D); this position's keys and values become the last W of the pool's ``filled`` ones."""
        if self._is_pre_norm:
            x_ND = self._attend_past(self._norm1(x_ND), x_ND, W, pool, filled, pool_bias_B1WP)
            x_ND = self._attend_source(self._norm2(x_ND), x_ND, W, source, source_bias_B11P)
            return self._feed_forward(self._norm3(x_ND), x_ND)
        x_ND = self._norm1(self._attend_past(x_ND, x_ND, W, pool, filled, pool_bias_B1WP))
        x_ND = self._norm2(self._attend_source(x_ND, x_ND, W, source, source_bias_B11P))
        return self._norm3(self._feed_forward(x_ND, x_ND))

    def _attend_past(
        self, x_ND: Tensor, residual_ND: Tensor, W: int, pool: Table, filled: int, bias_B1WP: Tensor
    ) -> Tensor:
        qkv_BWC = self._qkv(x_ND).view(-1, W, self.own_heads.num * (2 * self.own_heads.d_k + self.own_heads.d_v))
        pool.write(qkv_BWC[:, :, self.own_heads.num * self.own_heads.d_k :], filled - W)
        return self._own_out.add(residual_ND, self.own_heads.attend(qkv_BWC, pool, bias_B1WP))

    def _attend_source(self, x_ND: Tensor, residual_ND: Tensor, W: int, source: Table, bias_B11P: Tensor) -> Tensor:
        q_BWC = self._q(x_ND).view(-1, W, self.cross_heads.num * self.cross_heads.d_k)
        return self._cross_out.add(residual_ND, self.cross_heads.attend(q_BWC, source, bias_B11P))


def _projections(attention: MultiHeadAttention, others: list[nn.Linear], precision: str) -> tuple[Linear, Linear]:
    """The query projection, with 1 / sqrt(d_k) in it, beside others of the same input; and the output projection."""
    q_proj, scale = attention.q_proj, attention.scale
    weight_CD = torch.cat([q_proj.weight.detach() * scale, *(layer.weight.detach() for layer in others)])
    bias_C = None
    if q_proj.bias is not None:
        bias_C = torch.cat([q_proj.bias.detach() * scale, *(layer.bias.detach() for layer in others)])
    return prepare_weight(weight_CD, bias_C, precision), prepare([attention.out_proj], precision)


def _norm(norm: nn.Module) -> Function:
    """A layer norm, or nothing where a stack has none."""
    if isinstance(norm, nn.Identity):
        return norm
    assert isinstance(norm, nn.LayerNorm)
    shape, weight, bias, eps = norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
