"""The Transformer of "Attention Is All You Need" (arXiv 1706.03762) and the variants of its Table 3.

- Post-norm as in the paper, LayerNorm(x + Dropout(Sublayer(x))), or pre-norm with a final norm on each stack.
- One matrix for both embeddings and the output projection (section 3.4), or two, or three; embeddings × sqrt(d_model).
- Sinusoidal positions in halves, sines then cosines (the paper's table with its columns permuted), or learned ones.
- No biases in attention unless asked for, biases in the feed-forward layers, as the paper's formulas have them.

Shapes: B sequences, L positions, D d_model, V vocabulary, C columns of keys and values; packed rows (see `Layout`):
R of the source, P of the target (or of either, where a layer serves both), N real ones.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from transformer_mt.config.sections import ModelConfig
from transformer_mt.errors import InputError
from transformer_mt.model.attention import AttentionWeights, MultiHeadAttention
from transformer_mt.model.dropout import Dropout
from transformer_mt.model.layout import Batch, Layout
from transformer_mt.model.loss import label_smoothed_cross_entropy

LAYER_NORM_EPS = 1e-5
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu_, "gelu": F.gelu, "swish": F.silu}


class FeedForward(nn.Module):
    """The feed-forward sub-layer: FFN(x) = max(0, x W_1 + b_1) W_2 + b_2 at each position (section 3.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)
        self.activation = _ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.dropout(self.activation(self.up(x))))
        return out


class _Layer(nn.Module):
    """What encoder and decoder layers share: a residual connection and a norm around each sub-layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_pre_norm = config.norm == "pre"
        self.dropout = Dropout(config.dropout)

    def residual(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: nn.LayerNorm) -> Tensor:
        if self.is_pre_norm:
            return self.dropout.add(x, sublayer(norm(x)))
        out: Tensor = norm(self.dropout.add(x, sublayer(x)))
        return out


class EncoderLayer(_Layer):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.self_attn = _attention(config)
        self.ff = FeedForward(config)
        self.norm1, self.norm2 = _norm(config), _norm(config)

    def forward(self, x_PD: Tensor, layout: Layout) -> Tensor:
        x_PD = self.residual(x_PD, lambda x: self.self_attn(x, layout), self.norm1)
        return self.residual(x_PD, self.ff, self.norm2)


class DecoderLayer(_Layer):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.self_attn = _attention(config)
        self.cross_attn = _attention(config)
        self.ff = FeedForward(config)
        self.norm1, self.norm2, self.norm3 = _norm(config), _norm(config), _norm(config)

    def forward(self, x_PD: Tensor, layout: Layout, kv_RC: Tensor, memory_layout: Layout) -> Tensor:
        x_PD = self.residual(x_PD, lambda x: self.self_attn(x, layout, causal=True), self.norm1)
        x_PD = self.residual(x_PD, lambda x: self.cross_attn.attend_memory(x, layout, kv_RC, memory_layout), self.norm2)
        return self.residual(x_PD, self.ff, self.norm3)


class Stack(nn.Module):
    """N layers and, with pre-norm, the norm that their sum still lacks."""

    def __init__(self, layers: list[nn.Module], config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = _norm(config) if config.norm == "pre" else nn.Identity()


@dataclass
class Memory:
    """The encoder's output as the decoder needs it: keys and values (R, C) of every decoder layer, and their layout."""

    layers: list[Tensor]
    layout: Layout


class EncoderDecoder(nn.Module, abc.ABC):
    """What a `Transformer` has in common with a model of another kind: embeddings, output projection, loss.

    The generator (output projection) has a bias only with ``model.output_bias``.
    """

    def __init__(self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.recompute_activations = False  # in the backward pass, layer by layer, instead of keeping them
        self.scale = math.sqrt(config.d_model)
        self.src_embed = nn.Embedding(src_vocab_size, config.d_model)
        self.tgt_embed = nn.Embedding(tgt_vocab_size, config.d_model)
        self.generator = nn.Linear(config.d_model, tgt_vocab_size, bias=config.output_bias)
        self.dropout = Dropout(config.dropout)

    def _tie(self, tie: str) -> None:
        if tie == "all" and self.src_embed.weight.shape != self.tgt_embed.weight.shape:
            raise InputError(
                f"model.tie_embeddings: all needs one vocabulary, found {self.src_embed.num_embeddings} source and "
                f"{self.tgt_embed.num_embeddings} target pieces; set it to target"
            )
        if tie == "all":
            self.tgt_embed.weight = self.src_embed.weight
        if tie in ("all", "target"):
            self.generator.weight = self.tgt_embed.weight

    def freeze(self, parts: Iterable[str]) -> None:
        """Exclude weights from training: ``embeddings`` (and what is tied to them), ``encoder`` or ``decoder``."""
        modules_of = {
            "embeddings": ("src_embed", "tgt_embed", "src_positions", "tgt_positions"),
            "encoder": ("encoder",),
            "decoder": ("decoder", "first_states", "attention", "readout"),  # the others are a recurrent model's
        }
        modules = {module for part in parts for module in modules_of[part]}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] not in modules)

    @property
    @abc.abstractmethod
    def layers(self) -> list[nn.Module]:
        """Return all layers, in the order in which a batch runs through them."""

    @abc.abstractmethod
    def encode(self, src_ids_R: Tensor, layout: Layout) -> Any:
        """Run the encoder over the sources; return what `decode` takes of them."""

    @abc.abstractmethod
    def decode(self, tgt_in_P: Tensor, layout: Layout, memory: Any) -> Tensor:
        """Return the decoder's output (P, D) at every position of known targets (teacher forcing)."""

    @abc.abstractmethod
    def attention_weights(self, batch: Batch) -> AttentionWeights:
        """Return what every head looks at in one pass over known targets, as it is without dropout."""

    def forward(self, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the label-smoothed loss and the negative log-likelihood of a batch's labels.

        Both are scalars, sums over the labels, in nats.
        """
        hidden_PD, weight_VD = self.factors_of_logits(self._hidden(batch))
        hidden_PD = hidden_PD.to(_products_dtype(weight_VD))
        return label_smoothed_cross_entropy(hidden_PD, weight_VD, batch.labels_N, label_smoothing)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits (N, V) of every target position."""
        out: Tensor = self.generator(self._hidden(batch)[: batch.num_labels])
        return out

    def factors_of_logits(self, hidden_PD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two matrices whose product with the second one transposed are the logits.

        They are the decoder's output and the generator's weight; a bias is one more column of the weight, and
        multiplied by one more column of ones.
        """
        weight_VD, bias_V = self.generator.weight, self.generator.bias
        if bias_V is None:
            return hidden_PD, weight_VD
        return F.pad(hidden_PD, (0, 1), value=1.0), torch.cat([weight_VD, bias_V[:, None]], 1)

    def _hidden(self, batch: Batch) -> Tensor:
        """Return the decoder's output (P, D)."""
        return self.decode(batch.tgt_in_P, batch.tgt, self.encode(batch.src_ids_P, batch.src))


class Transformer(EncoderDecoder):
    """Encoder and decoder of attention and feed-forward layers."""

    def __init__(self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
        super().__init__(config, src_vocab_size, tgt_vocab_size)
        if config.positions == "learned":
            self.src_positions = nn.Embedding(config.max_positions, config.d_model)
            self.tgt_positions = nn.Embedding(config.max_positions, config.d_model)
        self.encoder = Stack([EncoderLayer(config) for _ in range(config.num_encoder_layers)], config)
        self.decoder = Stack([DecoderLayer(config) for _ in range(config.num_decoder_layers)], config)
        self._tie(config.tie_embeddings)
        self._sinusoids_LD = torch.empty(0, config.d_model)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all weights from torch's generator.

        - Embeddings and an output projection of its own: N(0, 1/d_model), so that × sqrt(d_model) has unit variance.
        - Linear weights: uniform Xavier (Glorot & Bengio 2010). Those of q, k and v have 1/sqrt(2) of its bound: where
          H·d_k = H·d_v = d_model, that is the bound of the one matrix (d_model, 3·d_model) that they form together.
        - Biases 0, norms (1, 0). The padding row is like any other: no real position reads it.
        """
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.d_model**-0.5)
            elif isinstance(module, nn.Linear) and module is not self.generator:
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                for projection in (module.q_proj, module.k_proj, module.v_proj):
                    nn.init.xavier_uniform_(projection.weight, gain=2**-0.5)
        if self.generator.bias is not None:
            nn.init.zeros_(self.generator.bias)
        if self.config.tie_embeddings == "none":
            nn.init.normal_(self.generator.weight, std=self.config.d_model**-0.5)

    @property
    def layers(self) -> list[nn.Module]:
        """Return all layers, in the order in which a batch runs through them."""
        return [*self.encoder.layers, *self.decoder.layers]

    def encode(self, src_ids_R: Tensor, layout: Layout) -> Memory:
        """Run the encoder, and project its output once for every decoder layer's attention over it."""
        x_RD = self._embed(self.src_embed, src_ids_R, layout.positions_P, layout.max_length)
        for layer in self.encoder.layers:
            x_RD = self._run(layer, x_RD, layout)
        memory_RD = self.encoder.norm(x_RD)
        return Memory([_cross_attn(layer).project_memory(memory_RD) for layer in self.decoder.layers], layout)

    def decode(self, tgt_in_P: Tensor, layout: Layout, memory: Memory) -> Tensor:
        """Return the decoder's output (P, D) at every position of known targets (teacher forcing)."""
        x_PD = self._embed(self.tgt_embed, tgt_in_P, layout.positions_P, layout.max_length)
        for layer, kv_RC in zip(self.decoder.layers, memory.layers, strict=True):
            x_PD = self._run(layer, x_PD, layout, kv_RC, memory.layout)
        out: Tensor = self.decoder.norm(x_PD)
        return out

    @torch.inference_mode()
    def attention_weights(self, batch: Batch) -> AttentionWeights:
        """Return what every head looks at in one pass over known targets, as it is without dropout."""
        encoder = [_self_attn(layer) for layer in self.encoder.layers]
        decoder = [_self_attn(layer) for layer in self.decoder.layers]
        cross = [_cross_attn(layer) for layer in self.decoder.layers]
        was_training = self.training
        self.eval()
        for attention in [*encoder, *decoder, *cross]:
            attention.seen_weights = []
        try:
            self.decode(batch.tgt_in_P, batch.tgt, self.encode(batch.src_ids_P, batch.src))
            return AttentionWeights(
                _stacked(encoder, batch.src), _stacked(decoder, batch.tgt), _stacked(cross, batch.tgt)
            )
        finally:
            self.train(was_training)
            for attention in [*encoder, *decoder, *cross]:
                attention.seen_weights = None

    def _run(self, layer: nn.Module, *inputs: Any) -> Tensor:
        """Run one layer; where activations are recomputed, only its inputs are kept (Chen et al. 2016, section 4)."""
        if self.recompute_activations and torch.is_grad_enabled():
            out: Tensor = torch.utils.checkpoint.checkpoint(layer, *inputs, use_reentrant=False)
        else:
            out = layer(*inputs)
        return out

    def _embed(self, table: nn.Embedding, ids: Tensor, positions: Tensor, length: int) -> Tensor:
        """Return embeddings × sqrt(d_model) + position encodings; ``length`` is more than the greatest position."""
        positions_LD = self.positions("src" if table is self.src_embed else "tgt", length)
        x = torch.add(F.embedding(positions, positions_LD), table(ids), alpha=self.scale)
        # From here on rows are in the precision of the matrix products, so that no layer has to convert them.
        out: Tensor = self.dropout(x.to(_products_dtype(table.weight)))
        return out

    def positions(self, side: Literal["src", "tgt"], length: int) -> Tensor:
        """Return the position table of a side, ``length`` rows or more. Sinusoids grow by doubling, beside the weights.

        Raises:
            InputError: learned positions do not reach so far.
        """
        if self.config.positions == "learned":
            limit = self.config.max_positions
            if length > limit:
                raise InputError(
                    f"a sequence of {length} positions is longer than the learned table of {limit}; shorten it, "
                    "or train with a larger model.max_positions or with sinusoidal positions"
                )
            return (self.src_positions if side == "src" else self.tgt_positions).weight
        weight, table_LD = self.src_embed.weight, self._sinusoids_LD
        dtype = torch.promote_types(weight.dtype, torch.float32)
        if table_LD.shape[0] < length or table_LD.device != weight.device or table_LD.dtype != dtype:
            rows = max(256, 1 << (length - 1).bit_length())
            table_LD = self._sinusoids_LD = sinusoids(rows, self.config.d_model).to(weight.device, dtype)
        return table_LD


def _products_dtype(weight: Tensor) -> torch.dtype:
    """Return the precision of the matrix products: what `torch.autocast` sets, or that of the weights."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def sinusoids(length: int, d_model: int) -> Tensor:
    """Return position encodings (section 3.5), float64 (length, d_model).

    Row p holds sin(p / 10000^(2i/d)) for all i, then the cosines.
    """
    positions_L1 = torch.arange(length, dtype=torch.float64)[:, None]
    rates = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    return torch.cat([torch.sin(positions_L1 * rates), torch.cos(positions_L1 * rates)], dim=1)


def count_parameters(model: nn.Module) -> int:
    """Return how many weights a model has, frozen ones included; a shared matrix counts once."""
    return sum(p.numel() for p in model.parameters())


def _attention(config: ModelConfig) -> MultiHeadAttention:
    assert config.d_k is not None and config.d_v is not None  # the configuration fills or refuses them
    return MultiHeadAttention(
        config.d_model, config.num_heads, config.d_k, config.d_v, config.attention_dropout, config.attention_bias
    )


def _norm(config: ModelConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS)


def _self_attn(layer: nn.Module) -> MultiHeadAttention:
    assert isinstance(layer, EncoderLayer | DecoderLayer)
    return layer.self_attn


def _cross_attn(layer: nn.Module) -> MultiHeadAttention:
    assert isinstance(layer, DecoderLayer)
    return layer.cross_attn


def _stacked(attentions: Sequence[MultiHeadAttention], queries: Layout) -> Tensor:
    """Return the weights (Y, B, H, L, M) that each of Y layers has seen, with 0 for queries that are padding."""
    weights_YBHLM = torch.stack([weights for attention in attentions for weights in attention.seen_weights or []])
    if queries.bias_BL is not None:
        weights_YBHLM.masked_fill_((queries.bias_BL != 0)[:, None, :, None], 0.0)
    return weights_YBHLM
