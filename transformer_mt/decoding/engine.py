"""The model as search runs it: prepared weights, encoded sources, one position a step.

`Transformer` is written for training, where all positions are there at once. Here one position of every hypothesis is
new, thousands of times over, so everything that does not change is worked out beforehand:

- once a model: projections side by side in one matrix, laid out as the product reads them, in the precision chosen;
- once a sentence: the keys and values of its source, for all its hypotheses together;
- once a position: its key and value. They never move. A sentence's hypotheses share one pool of past positions, and a
  mask says which of them are whose; following the beam moves rows of the mask. Positions that no hypothesis descends
  from are thrown out when the pool is full.

Shapes: B sentences, W hypotheses of each, N = B·W rows, S source, D d_model, H heads, Z = B·H, K head size, C columns,
V vocabulary (padded), P positions of a table, L queries of a sentence, R = B·S source rows, Y decoder layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transformer_mt.decoding.prepared_linear import Linear, prepare, row_type
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.transformer import DecoderLayer, EncoderLayer, FeedForward, Transformer
from transformer_mt.text.vocabulary import PAD_ID

VOCAB_MULTIPLE = 64  # to which the vocabulary is padded: search looks for the best ids block by block
# Attention runs over a multiple of this many positions, the rest masked: PyTorch's softmax of a row that does not
# fill the processor's vectors is ten times slower.
_POSITIONS_MULTIPLE = 16
_FIRST_STEPS = 8  # for which a pool has room when it is made

Function = Callable[[Tensor], Tensor]


@dataclass
class EngineState:
    """What the hypotheses of a batch have in common, and what each has behind it.

    Tables (Y, 2, B, H, P, K) hold the keys and the values of all layers; a bias is 0 where a hypothesis may look and
    -inf elsewhere.
    """

    sources: Tensor  # table of the encoded sources
    source_bias_BP: Tensor
    pool: Tensor  # table of the past of all hypotheses
    pool_bias_BWP: Tensor
    filled: int  # positions of the pool
    position: int  # the next one of every hypothesis
    num_seen: int = 0  # positions of the pool that attention runs over; those that are not filled are masked
    source_views: list[tuple[Tensor, Tensor]] = field(init=False)  # of each layer, see `_views`
    pool_views: list[tuple[Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.source_views = _views(self.sources, self.sources.shape[4])
        self.pool_views = _views(self.pool, self.num_seen)

    def select(self, keep_B: Tensor | None, parents_BW: Tensor) -> None:
        """Keep only the sentences ``keep_B`` (None: all); then row w of sentence b continues row parents_BW[b, w]."""
        if keep_B is not None:
            self.sources, self.pool = self.sources.index_select(2, keep_B), self.pool.index_select(2, keep_B)
            self.source_bias_BP = self.source_bias_BP.index_select(0, keep_B)
            self.pool_bias_BWP = self.pool_bias_BWP.index_select(0, keep_B)
            self.__post_init__()
        if self.pool_bias_BWP.shape[1] == 1 == parents_BW.shape[1]:
            return
        capacity = self.pool_bias_BWP.shape[2]
        self.pool_bias_BWP = self.pool_bias_BWP.gather(1, parents_BW.unsqueeze(-1).expand(-1, -1, capacity))

    def make_room(self, num_positions: int) -> None:
        """Have room for so many more positions, of all hypotheses. Making it reads a number from the device."""
        if self.filled + num_positions > self.pool_bias_BWP.shape[2]:
            self._make_room(num_positions)

    def add_position(self) -> None:
        """Add one position of every hypothesis, which sees itself."""
        W = self.pool_bias_BWP.shape[1]
        self.make_room(W)
        self.pool_bias_BWP[:, :, self.filled : self.filled + W].diagonal(dim1=1, dim2=2).zero_()
        first, self.filled = max(self.filled, self.num_seen), self.filled + W
        if self.filled > self.num_seen:
            self.num_seen = _rounded(self.filled, _POSITIONS_MULTIPLE)
            # What is masked counts nothing, unless memory that was never written happens to be NaN.
            self.pool[:, :, :, :, first : self.num_seen] = 0
            self.pool_views = _views(self.pool, self.num_seen)

    def _make_room(self, num_positions: int) -> None:
        """Throw out the positions that no hypothesis descends from, and leave as much room again as is used."""
        Y, _, B, H, _, K = self.pool.shape
        W = self.pool_bias_BWP.shape[1]
        is_used_BP = (self.pool_bias_BWP[:, :, : self.filled] == 0).any(1)
        most = int(is_used_BP.sum(1).max()) if self.filled else 0
        # Stable: the positions in use come first, in their order. A sentence with fewer keeps some that all mask.
        kept_BP = is_used_BP.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        capacity = _rounded(2 * most + max(_FIRST_STEPS * W, num_positions), _POSITIONS_MULTIPLE)
        pool = self.pool.new_empty(Y, 2, B, H, capacity, K)
        pool[:, :, :, :, :most] = self.pool.gather(4, kept_BP[None, None, :, None, :, None].expand(Y, 2, -1, H, -1, K))
        bias_BWP = self.pool_bias_BWP.new_full((B, W, capacity), -math.inf)
        bias_BWP[:, :, :most] = self.pool_bias_BWP.gather(2, kept_BP.unsqueeze(1).expand(-1, W, -1))
        self.pool, self.pool_bias_BWP, self.filled, self.num_seen = pool, bias_BWP, most, 0


def _views(table: Tensor, num_positions: int) -> list[tuple[Tensor, Tensor]]:
    """Keys (Z, K, P) and values (Z, P, K) of each layer's first positions; Z = B·H."""
    keys_YZPK, values_YZPK = table.flatten(2, 3)[:, :, :, :num_positions].unbind(1)
    return list(zip(keys_YZPK.mT.unbind(), values_YZPK.unbind(), strict=True))


class Engine:
    """One `Transformer` as search sees it. Weights are copied where they are rearranged: when the model has changed,
    another engine is needed."""

    def __init__(self, model: Transformer, precision: str) -> None:
        self._model = model  # for its position tables only
        self._scale = model.scale
        dtype = row_type(model.src_embed.weight, precision)
        self._src_embed_VD, self._tgt_embed_VD = (
            embed.weight.detach().to(dtype) for embed in (model.src_embed, model.tgt_embed)
        )
        self._encoder = [_EncoderLayer(layer, precision) for layer in model.encoder.layers]
        self._decoder = [_DecoderLayer(layer, precision) for layer in model.decoder.layers]
        self._encoder_norm, self._decoder_norm = (_norm(x.norm, precision) for x in (model.encoder, model.decoder))
        self._num_ids = model.generator.out_features
        padding = (0, 0, 0, _rounded(self._num_ids, VOCAB_MULTIPLE) - self._num_ids)
        bias_V = None if model.generator.bias is None else F.pad(model.generator.bias.detach(), padding[2:])
        self._generator = prepare(F.pad(model.generator.weight.detach(), padding), bias_V, precision)

    @property
    def device(self) -> torch.device:
        return self._src_embed_VD.device

    def bytes_a_sentence(self, source_length: int, target_length: int, num_hypotheses: int) -> int:
        """Estimate the bytes that search takes for a sentence: what is kept of it, and log-probabilities.

        A pool that is made anew has twice the positions in use, and those of the old one are still there.
        """
        heads, size = self._decoder[0].heads, self._src_embed_VD.element_size()
        positions = source_length + 3 * target_length + _FIRST_STEPS * num_hypotheses
        kept = positions * len(self._decoder) * 2 * heads.num * heads.size * size
        return kept + num_hypotheses * self._num_ids * (size + 2 * 4)  # logits, log-probabilities, and as much again

    def start(self, src: list[list[int]]) -> EngineState:
        """Encode sources; a state with one row a sentence, before the first position."""
        B, S = len(src), max(map(len, src))
        P = _rounded(S, _POSITIONS_MULTIPLE)
        # One copy to the device: -1 is padding.
        ids_BP = torch.tensor([[*ids, *[-1] * (P - len(ids))] for ids in src], device=self.device)
        bias_BP = torch.zeros(B, P, dtype=self._src_embed_VD.dtype, device=self.device)
        bias_BP.masked_fill_(ids_BP < 0, -math.inf)
        positions_SD = self._positions("src", 0, S)
        ids_BS = ids_BP[:, :S].clamp(min=PAD_ID)
        x_BSD = torch.add(positions_SD, F.embedding(ids_BS, self._src_embed_VD), alpha=self._scale)
        x_RD = x_BSD.view(B * S, -1)
        for encoder_layer in self._encoder:
            x_RD = encoder_layer(x_RD, bias_BP[:, :S])
        memory_RD = self._encoder_norm(x_RD)
        heads = self._decoder[0].heads
        sources = x_RD.new_zeros(len(self._decoder), 2, B, heads.num, P, heads.size)
        for table, layer in zip(sources, self._decoder, strict=True):
            kv_BSC = layer.project_source(memory_RD).view(B, S, -1)
            table[:, :, :, :S] = heads.split(kv_BSC, 0, 2)
        pool = x_RD.new_empty(len(self._decoder), 2, B, heads.num, 0, heads.size)
        return EngineState(sources, bias_BP, pool, x_RD.new_empty(B, 1, 0), 0, 0)

    def step(self, state: EngineState, last_BW: Tensor) -> Tensor:
        """Feed one id to each row; the log-probabilities (B, W, V) of the next, -inf in the columns of padding."""
        B, W = last_BW.shape
        position_1D = self._positions("tgt", state.position, 1)
        x_ND = torch.add(position_1D, F.embedding(last_BW.view(B * W), self._tgt_embed_VD), alpha=self._scale)
        state.add_position()
        state.position += 1
        past_ZWP = self._of_heads(state.pool_bias_BWP[:, :, : state.num_seen])
        source_Z1P = self._of_heads(state.source_bias_BP.unsqueeze(1))
        places_Y = state.pool[:, :, :, :, state.filled - W : state.filled].unbind()
        for layer, places, past, source in zip(
            self._decoder, places_Y, state.pool_views, state.source_views, strict=True
        ):
            x_ND = layer.step(x_ND, places, past, past_ZWP, source, source_Z1P)
        logits_NV = self._generator(self._decoder_norm(x_ND))
        logits_NV[:, self._num_ids :] = -math.inf
        if logits_NV.dtype is torch.bfloat16:
            return torch.log_softmax(logits_NV, -1, dtype=torch.float32).view(B, W, -1)
        torch.log_softmax(logits_NV, -1, out=logits_NV)
        return logits_NV.view(B, W, -1)

    def _positions(self, side: Literal["src", "tgt"], first: int, count: int) -> Tensor:
        """Encodings (count, D) of the positions from ``first`` on."""
        table_LD = self._model.positions(side, first + count).detach()
        return table_LD[first : first + count].to(self._src_embed_VD.dtype)

    def _of_heads(self, bias_BWP: Tensor) -> Tensor:
        """A bias for every head: (B, W, P) -> (Z, W, P)."""
        return bias_BWP.unsqueeze(1).expand(-1, self._decoder[0].heads.num, -1, -1).flatten(0, 1)


@dataclass(frozen=True)
class _Heads:
    """The shape of an attention, with keys and values of one size, and equation 1 for all heads together."""

    num: int
    size: int

    @classmethod
    def of(cls, attention: MultiHeadAttention) -> _Heads:
        return cls(attention.num_heads, max(attention.d_k, attention.d_v))

    def split(self, x_BLC: Tensor, first: int, count: int) -> Tensor:
        """Of several projections side by side, ``count`` from the ``first`` on, as a view (count, B, H, L, K)."""
        (B, L, C), H, K = x_BLC.shape, self.num, self.size
        return x_BLC.as_strided((count, B, H, L, K), (H * K, L * C, K, C, 1), first * H * K)

    def attend(self, q_1BHLK: Tensor, table: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """What N = B·L queries, scaled already, find in a table: (N, H·K). ``bias`` is (Z, L or 1, P)."""
        (_, B, H, L, K), (keys_ZKP, values_ZPK) = q_1BHLK.shape, table
        scores_ZLP = torch.bmm(q_1BHLK.reshape(B * H, L, K), keys_ZKP).add_(bias)
        out_ZLK = torch.bmm(scores_ZLP.softmax(-1), values_ZPK)
        return out_ZLK.view(B, H, L, K).transpose(1, 2).reshape(B * L, H * K)


class _FeedForward:
    def __init__(self, ff: FeedForward, precision: str) -> None:
        self._up = prepare(ff.up.weight.detach(), ff.up.bias.detach(), precision)
        self._down = prepare(ff.down.weight.detach(), ff.down.bias.detach(), precision)
        self._activation = ff.activation

    def __call__(self, x_ND: Tensor, residual_ND: Tensor) -> Tensor:
        return self._down.add(residual_ND, self._activation(self._up(x_ND)))


class _EncoderLayer:
    """An encoder layer over padded sources."""

    def __init__(self, layer: nn.Module, precision: str) -> None:
        assert isinstance(layer, EncoderLayer)
        self._heads = _Heads.of(layer.self_attn)
        self._qkv, self._out = _projections(layer.self_attn, "qkv", precision)
        self._feed_forward = _FeedForward(layer.ff, precision)
        self._norm1, self._norm2 = (_norm(norm, precision) for norm in (layer.norm1, layer.norm2))
        self._is_pre_norm = layer.is_pre_norm

    def __call__(self, x_RD: Tensor, bias_BS: Tensor) -> Tensor:
        if self._is_pre_norm:
            x_RD = self._attend(self._norm1(x_RD), x_RD, bias_BS)
            return self._feed_forward(self._norm2(x_RD), x_RD)
        x_RD = self._norm1(self._attend(x_RD, x_RD, bias_BS))
        return self._norm2(self._feed_forward(x_RD, x_RD))

    def _attend(self, x_RD: Tensor, residual_RD: Tensor, bias_BS: Tensor) -> Tensor:
        q, k, v = self._heads.split(self._qkv(x_RD).view(*bias_BS.shape, -1), 0, 3)
        out = F.scaled_dot_product_attention(q, k, v, bias_BS[:, None, None, :], scale=1.0)
        return self._out.add(residual_RD, out.transpose(1, 2).reshape(x_RD.shape[0], -1))


class _DecoderLayer:
    """A decoder layer, one position at a time."""

    def __init__(self, layer: nn.Module, precision: str) -> None:
        assert isinstance(layer, DecoderLayer)
        self.heads = _Heads.of(layer.self_attn)
        self._qkv, self._own_out = _projections(layer.self_attn, "qkv", precision)
        self._q, self._cross_out = _projections(layer.cross_attn, "q", precision)
        self.project_source, _ = _projections(layer.cross_attn, "kv", precision)
        self._feed_forward = _FeedForward(layer.ff, precision)
        self._norm1, self._norm2, self._norm3 = (
            _norm(norm, precision) for norm in (layer.norm1, layer.norm2, layer.norm3)
        )
        self._is_pre_norm = layer.is_pre_norm

    def step(
        self,
        x_ND: Tensor,
        places: Tensor,
        past: tuple[Tensor, Tensor],
        past_ZWP: Tensor,
        source: tuple[Tensor, Tensor],
        source_Z1P: Tensor,
    ) -> Tensor:
        """(N, D) -> (N, D); this position's keys and values go to the ``places`` (2, B, H, W, K) of the pool."""
        if self._is_pre_norm:
            x_ND = self._attend_past(self._norm1(x_ND), x_ND, places, past, past_ZWP)
            x_ND = self._attend_source(self._norm2(x_ND), x_ND, places, source, source_Z1P)
            return self._feed_forward(self._norm3(x_ND), x_ND)
        x_ND = self._norm1(self._attend_past(x_ND, x_ND, places, past, past_ZWP))
        x_ND = self._norm2(self._attend_source(x_ND, x_ND, places, source, source_Z1P))
        return self._norm3(self._feed_forward(x_ND, x_ND))

    def _attend_past(
        self, x_ND: Tensor, residual_ND: Tensor, places: Tensor, past: tuple[Tensor, Tensor], bias_ZWP: Tensor
    ) -> Tensor:
        qkv_BWC = self._qkv(x_ND).view(places.shape[1], places.shape[3], -1)
        places.copy_(self.heads.split(qkv_BWC, 1, 2))
        return self._own_out.add(residual_ND, self.heads.attend(self.heads.split(qkv_BWC, 0, 1), past, bias_ZWP))

    def _attend_source(
        self, x_ND: Tensor, residual_ND: Tensor, places: Tensor, source: tuple[Tensor, Tensor], bias_Z1P: Tensor
    ) -> Tensor:
        q_BWC = self._q(x_ND).view(places.shape[1], places.shape[3], -1)
        return self._cross_out.add(residual_ND, self.heads.attend(self.heads.split(q_BWC, 0, 1), source, bias_Z1P))


def _projections(attention: MultiHeadAttention, which: str, precision: str) -> tuple[Linear, Linear]:
    """Those of ``which`` letters side by side, the queries' with 1 / sqrt(d_k) in it; and the one of the output.

    Where d_k and d_v differ, the smaller heads are filled up with zeros.
    """
    H, K = attention.num_heads, _Heads.of(attention).size

    def wide(x_CX: Tensor) -> Tensor:
        """(H·d, …) -> (H·K, …)"""
        heads: Tensor = x_CX.detach().unflatten(0, (H, -1))
        filled = heads.new_zeros(H, K, *heads.shape[2:])
        filled[:, : heads.shape[1]] = heads
        return filled.flatten(0, 1)

    layers = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj}
    scales = {"q": attention.scale, "k": 1.0, "v": 1.0}
    weight_CD = torch.cat([wide(layers[name].weight) * scales[name] for name in which])
    bias_C, out = None, attention.out_proj
    if attention.q_proj.bias is not None:
        bias_C = torch.cat([wide(layers[name].bias) * scales[name] for name in which])
    out_bias_D = None if out.bias is None else out.bias.detach()
    return prepare(weight_CD, bias_C, precision), prepare(wide(out.weight.T).T, out_bias_D, precision)


def _norm(norm: nn.Module, precision: str) -> Function:
    """A layer norm, or nothing where a stack has none."""
    if isinstance(norm, nn.Identity):
        return norm
    assert isinstance(norm, nn.LayerNorm)
    dtype, shape, eps = row_type(norm.weight, precision), norm.normalized_shape, norm.eps
    weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
