"""A Transformer as two graphs of ONNX's operators: the encoder, and the decoder with a cache of keys and values.

Inputs and outputs have the names that Hugging Face's Optimum gave them, which transformers.js looks for. The decoder is
both of its decoders in one: with ``use_cache_branch`` false the past is not looked at, and the keys and values of the
source are computed; with true they are the past's.

Shapes: B sequences, L positions of queries, M positions of keys, D d_model, V vocabulary, H heads, K and V head sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor, nn

from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.transformer import LAYER_NORM_EPS, DecoderLayer, EncoderLayer, Transformer
from transformer_mt.text.vocabulary import EOS_ID

_OPSET, _IR_VERSION = 17, 8  # the first that has LayerNormalization; every browser's runtime has it
_NEVER = np.float32(np.finfo(np.float32).min)  # what a score becomes where a query may not look
_ZERO_POINT = np.uint8(128)
_KINDS = ("key", "value")
_IDS, _FLOATS, _BOOLEANS = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


class _Graph:
    """Nodes in the order in which they run, and the weights that they share with those of branches."""

    def __init__(self, quantized: bool, prefix: str = "", parent: _Graph | None = None) -> None:
        self.quantized = quantized
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {} if parent is None else parent.weights
        self._tables: dict[int, tuple[str, ...]] = {}

    def add(self, kind: str, *inputs: str, num_outputs: int = 1, **attributes: Any) -> list[str]:
        outputs = [f"{self._prefix}{kind.lower()}{len(self.nodes)}.{i}" for i in range(num_outputs)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.add(kind, *inputs, **attributes)[0]

    def rename(self, value: str, name: str) -> str:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        return name

    def constant(self, value: Any, dtype: npt.DTypeLike | None = None) -> str:
        array = np.asarray(value, dtype)
        name = f"weight{len(self.weights)}"
        if array.size <= 4:  # small ones are many times the same
            name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{'_'.join(map(str, array.flat))}"
        self.weights.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def matmul(self, x: str, weight: tuple[str, ...]) -> str:
        """Multiply by a matrix that `matrix` has written."""
        if not self.quantized:
            return self.op("MatMul", x, *weight)
        values, scales, zero_point = weight
        x, x_scale, x_zero_point = self.add("DynamicQuantizeLinear", x, num_outputs=3)
        product = self.op("Cast", self.op("MatMulInteger", x, values, x_zero_point, zero_point), to=_FLOATS)
        return self.op("Mul", product, self.op("Mul", x_scale, scales))

    def matrix(self, weight_IO: npt.NDArray[np.float32]) -> tuple[str, ...]:
        """Write a matrix: its values, and where they are bytes, the scales of its columns and the byte of zero.

        Bytes have no sign: with signs, processors without VNNI would cut off sums of two products.
        """
        if not self.quantized:
            return (self.constant(weight_IO),)
        scale_O = np.maximum(np.abs(weight_IO).max(axis=0), 1e-12) / np.float32(127)
        values_IO = (np.rint(weight_IO / scale_O) + _ZERO_POINT).astype(np.uint8)
        return self.constant(values_IO), self.constant(scale_O), self.constant(_ZERO_POINT)

    def table(self, weight_VD: Tensor) -> tuple[str, ...]:
        """Write a table of embeddings as (D, V), once where several use it: so the output projection needs it."""
        key = weight_VD.data_ptr()
        if key not in self._tables:
            self._tables[key] = self.matrix(np.ascontiguousarray(_array(weight_VD).T))
        return self._tables[key]

    def linear(self, x: str, *layers: nn.Linear) -> str:
        """Several projections of the same input, side by side."""
        weight_OI = np.concatenate([_array(layer.weight) for layer in layers])
        out = self.matmul(x, self.matrix(np.ascontiguousarray(weight_OI.T)))
        if layers[0].bias is None:
            return out
        return self.op("Add", out, self.constant(np.concatenate([_array(layer.bias) for layer in layers])))

    def branch(self, outputs: list[str]) -> GraphProto:
        """Return the nodes as a branch of an ``If``, whose shapes need no telling."""
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        return helper.make_graph(self.nodes, self._prefix, [], values)

    def norm(self, x: str, norm: nn.Module) -> str:
        if isinstance(norm, nn.Identity):
            return x
        assert isinstance(norm, nn.LayerNorm)
        weight, bias = self.constant(_array(norm.weight)), self.constant(_array(norm.bias))
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=LAYER_NORM_EPS)


def encoder_graph(model: Transformer, quantized: bool) -> ModelProto:
    """Write ``last_hidden_state`` (B, M, D) of ``input_ids`` and ``attention_mask`` (B, M)."""
    g = _Graph(quantized)
    bias = _padding_bias(g, "attention_mask")
    x = _embed(g, model, "src", "input_ids", g.ints(0))
    for layer in model.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        q, k, v = _heads(g, _before(g, layer, x, layer.norm1), layer.self_attn, "qkv")
        x = _after(g, layer, x, _attend(g, layer.self_attn, q, k, v, bias), layer.norm1)
        x = _feed_forward(g, layer, x, layer.norm2, model.config.activation)
    g.rename(g.norm(x, model.encoder.norm), "last_hidden_state")
    source = ("batch_size", "encoder_sequence_length")
    inputs = [_value("input_ids", _IDS, *source), _value("attention_mask", _IDS, *source)]
    return _model(g, inputs, [_value("last_hidden_state", _FLOATS, *source, model.config.d_model)])


def decoder_graph(model: Transformer, quantized: bool, first_tgt_id: int, num_shared_ids: int) -> ModelProto:
    """Write the logits of ``input_ids`` (B, L), which follow what the cache holds, and the cache behind them.

    Args:
        first_tgt_id: where ids behind the first ``num_shared_ids`` begin, where the target has a vocabulary of its
            own and the tokenizer one for both; the logits of those between are those of what cannot be.
    """
    g = _Graph(quantized)
    layers = [layer for layer in model.decoder.layers if isinstance(layer, DecoderLayer)]
    past_length = g.op("Shape", "past_key_values.0.decoder.key", start=2, end=3)
    past_length = g.op("Where", "use_cache_branch", past_length, g.ints(0))
    memory = _memory(g, layers)
    padding, causal = _padding_bias(g, "encoder_attention_mask"), _causal_bias(g, past_length)
    gap = first_tgt_id - num_shared_ids
    ids = "input_ids"
    if gap:
        is_shared = g.op("Less", ids, g.ints(num_shared_ids))
        ids = g.op("Where", is_shared, ids, g.op("Sub", ids, g.ints(gap)))
    x = _embed(g, model, "tgt", ids, past_length)
    for i, layer in enumerate(layers):
        q, *new = _heads(g, _before(g, layer, x, layer.norm1), layer.self_attn, "qkv")
        k, v = (_grown(g, f"{i}.decoder.{kind}", past_length, one) for kind, one in zip(_KINDS, new, strict=True))
        x = _after(g, layer, x, _attend(g, layer.self_attn, q, k, v, causal), layer.norm1)
        (q,) = _heads(g, _before(g, layer, x, layer.norm2), layer.cross_attn, "q")
        x = _after(g, layer, x, _attend(g, layer.cross_attn, q, *memory[i], padding), layer.norm2)
        x = _feed_forward(g, layer, x, layer.norm3, model.config.activation)
    logits = g.matmul(g.norm(x, model.decoder.norm), g.table(model.generator.weight))
    if model.generator.bias is not None:
        logits = g.op("Add", logits, g.constant(_array(model.generator.bias)))
    # Of a batch transformers.js goes on with sentences that have ended: after </s> comes nothing but </s>.
    has_ended = g.op("Unsqueeze", g.op("Equal", ids, g.constant(EOS_ID, np.int64)), g.ints(-1))
    is_other = g.constant(np.arange(model.generator.out_features) != EOS_ID)
    logits = g.op("Where", g.op("And", has_ended, is_other), g.constant(_NEVER), logits)
    if gap:
        sizes = g.ints(num_shared_ids, model.generator.out_features - num_shared_ids)
        shared, own = g.add("Split", logits, sizes, num_outputs=2, axis=-1)
        shape = g.op("Concat", g.op("Shape", logits, end=2), g.ints(gap), axis=0)
        logits = g.op("Concat", shared, g.op("Expand", g.constant(_NEVER), shape), own, axis=-1)
    g.rename(logits, "logits")
    return _model(g, *_decoder_values(model, model.generator.out_features + gap))


def _decoder_values(model: Transformer, vocab_size: int) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Describe the decoder's inputs and outputs."""
    config = model.config
    source, target = ("batch_size", "encoder_sequence_length"), ("batch_size", "decoder_sequence_length")
    inputs = [
        _value("encoder_attention_mask", _IDS, *source),
        _value("input_ids", _IDS, *target),
        _value("encoder_hidden_states", _FLOATS, *source, config.d_model),
    ]
    outputs = [_value("logits", _FLOATS, *target, vocab_size)]
    past = "past_decoder_sequence_length"
    lengths = {"decoder": (past, f"{past} + decoder_sequence_length"), "encoder": ("encoder_sequence_length_out",) * 2}
    for i in range(config.num_decoder_layers):
        for side, (before, behind) in lengths.items():
            for kind, size in zip(_KINDS, (config.d_k, config.d_v), strict=True):
                name, heads = f"{i}.{side}.{kind}", config.num_heads
                inputs.append(_value(f"past_key_values.{name}", _FLOATS, "batch_size", heads, before, size))
                outputs.append(_value(f"present.{name}", _FLOATS, "batch_size", heads, behind, size))
    return [*inputs, _value("use_cache_branch", _BOOLEANS, 1)], outputs


def _memory(g: _Graph, layers: list[DecoderLayer]) -> list[tuple[str, str]]:
    """Return the source's keys and values of each layer: the past's, or computed where there is none."""
    names = [[f"{i}.encoder.{kind}" for kind in _KINDS] for i in range(len(layers))]
    known, computed = _Graph(g.quantized, "known.", g), _Graph(g.quantized, "computed.", g)
    theirs = [known.op("Identity", f"past_key_values.{name}") for pair in names for name in pair]
    ours = [one for layer in layers for one in _heads(computed, "encoder_hidden_states", layer.cross_attn, "kv")]
    branches = {"then_branch": known.branch(theirs), "else_branch": computed.branch(ours)}
    outputs = [(f"present.{key}", f"present.{value}") for key, value in names]
    g.nodes.append(
        helper.make_node("If", ["use_cache_branch"], [name for pair in outputs for name in pair], **branches)
    )
    return outputs


def _grown(g: _Graph, name: str, past_length: str, new: str) -> str:
    """Return keys or values with the new ones behind those of the past, if it counts, as an output of the graph."""
    past = g.op("Slice", f"past_key_values.{name}", g.ints(0), past_length, g.ints(2))
    return g.rename(g.op("Concat", past, new, axis=2), f"present.{name}")


def _embed(g: _Graph, model: Transformer, side: str, ids: str, start: str) -> str:
    """Return embeddings × sqrt(d_model) + position encodings, of positions from ``start`` on."""
    weight_VD = (model.src_embed if side == "src" else model.tgt_embed).weight
    values, *quantized = g.table(weight_VD)
    x = g.op("Transpose", g.op("Gather", values, ids, axis=1), perm=[1, 2, 0])  # (D, B, L) -> (B, L, D)
    if quantized:
        scale = g.op("Unsqueeze", g.op("Gather", quantized[0], ids), g.ints(-1))
        x = g.op("Sub", g.op("Cast", x, to=_FLOATS), g.constant(np.float32(_ZERO_POINT)))
        x = g.op("Mul", x, scale)
    x = g.op("Mul", x, g.constant(np.float32(model.scale)))
    return g.op("Add", x, _positions(g, model, side, _range(g, start, g.op("Shape", ids, start=1, end=2))))


def _range(g: _Graph, start: str, length: str) -> str:
    first, behind = (g.op("Squeeze", value, g.ints(0)) for value in (start, g.op("Add", start, length)))
    return g.op("Range", first, behind, g.constant(1, np.int64))


def _positions(g: _Graph, model: Transformer, side: str, numbers: str) -> str:
    """Return the position encodings (L, D) of numbers (L). Sinusoids are computed, so that no line is too long."""
    config = model.config
    if config.positions == "learned":
        table = model.src_positions if side == "src" else model.tgt_positions
        last = g.constant(config.max_positions - 1, np.int64)  # a translation that does not end goes on there
        return g.op(
            "Gather", g.constant(_array(table.weight)), g.op("Min", numbers, last) if side == "tgt" else numbers
        )
    rates = 10000.0 ** (-np.arange(0, config.d_model, 2, dtype=np.float64) / config.d_model)
    column = g.op("Unsqueeze", g.op("Cast", numbers, to=_FLOATS), g.ints(-1))
    angles = g.op("Mul", column, g.constant(rates, np.float32))
    return g.op("Concat", g.op("Sin", angles), g.op("Cos", angles), axis=-1)


def _padding_bias(g: _Graph, mask: str) -> str:
    """Return what is added to scores, (B, 1, 1, M): padding is not looked at."""
    is_real = g.op("Cast", g.op("Unsqueeze", mask, g.ints(1, 2)), to=_BOOLEANS)
    return g.op("Where", is_real, g.constant(np.float32(0)), g.constant(_NEVER))


def _causal_bias(g: _Graph, past_length: str) -> str:
    """Return what is added to scores, (L, M): no query looks at what follows it."""
    length = g.op("Shape", "input_ids", start=1, end=2)
    queries = g.op("Unsqueeze", _range(g, past_length, length), g.ints(1))
    keys = _range(g, g.ints(0), g.op("Add", past_length, length))
    return g.op("Where", g.op("LessOrEqual", keys, queries), g.constant(np.float32(0)), g.constant(_NEVER))


def _heads(g: _Graph, x: str, attention: MultiHeadAttention, which: str) -> list[str]:
    """Project (B, L, D) to queries, keys, values (B, H, L, K), those of the letters in ``which``."""
    layers: list[nn.Linear] = [getattr(attention, f"{letter}_proj") for letter in which]
    joined, H = g.linear(x, *layers), attention.num_heads
    parts = [joined]
    if len(layers) > 1:
        sizes = g.ints(*(layer.out_features for layer in layers))
        parts = g.add("Split", joined, sizes, num_outputs=len(layers), axis=-1)
    shapes = [g.ints(0, 0, H, layer.out_features // H) for layer in layers]
    split = [g.op("Reshape", part, shape) for part, shape in zip(parts, shapes, strict=True)]
    return [g.op("Transpose", part, perm=[0, 2, 1, 3]) for part in split]


def _attend(g: _Graph, attention: MultiHeadAttention, q: str, k: str, v: str, bias: str) -> str:
    """Write equation 1 for all heads, joined and projected: (B, L, D)."""
    scores = g.op(
        "MatMul", g.op("Mul", q, g.constant(np.float32(attention.scale))), g.op("Transpose", k, perm=[0, 1, 3, 2])
    )
    weights = g.op("Softmax", g.op("Add", scores, bias), axis=-1)
    joined = g.op("Transpose", g.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    return g.linear(g.op("Reshape", joined, g.ints(0, 0, attention.num_heads * attention.d_v)), attention.out_proj)


def _feed_forward(g: _Graph, layer: EncoderLayer | DecoderLayer, x: str, norm: nn.Module, activation: str) -> str:
    y = g.linear(_before(g, layer, x, norm), layer.ff.up)
    if activation == "relu":
        y = g.op("Relu", y)
    elif activation == "swish":
        y = g.op("Mul", y, g.op("Sigmoid", y))
    else:  # the exact GELU: y · (1 + erf(y / √2)) / 2
        erf = g.op("Erf", g.op("Mul", y, g.constant(0.5**0.5, np.float32)))
        y = g.op("Mul", g.op("Mul", y, g.constant(0.5, np.float32)), g.op("Add", erf, g.constant(1, np.float32)))
    return _after(g, layer, x, g.linear(y, layer.ff.down), norm)


def _before(g: _Graph, layer: EncoderLayer | DecoderLayer, x: str, norm: nn.Module) -> str:
    return g.norm(x, norm) if layer.is_pre_norm else x


def _after(g: _Graph, layer: EncoderLayer | DecoderLayer, x: str, sublayer_of_x: str, norm: nn.Module) -> str:
    x = g.op("Add", x, sublayer_of_x)
    return x if layer.is_pre_norm else g.norm(x, norm)


def _value(name: str, kind: int, *shape: str | int | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(g: _Graph, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> ModelProto:
    graph = helper.make_graph(g.nodes, "transformer_mt", inputs, outputs, list(g.weights.values()))
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="transformer_mt")


def _array(x: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = x.detach().cpu().numpy()
    return array
