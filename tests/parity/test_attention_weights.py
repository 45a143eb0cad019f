"""The weights of a forced pass against equation 1, by `torch.nn.MultiheadAttention` and by hand, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transformer_mt.config.sections import ModelConfig
from transformer_mt.errors import InputError
from transformer_mt.model.attention import AttentionWeights, MultiHeadAttention
from transformer_mt.model.layout import Batch, collate
from transformer_mt.model.transformer import DecoderLayer, EncoderLayer, Transformer

D, H, V = 24, 3, 11
SRC = [[4, 5, 6, 7, 3], [8, 3], [9, 10, 4, 3]]
TGT = [[5, 3], [6, 7, 8, 9, 10, 3], [4, 4, 3]]
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "pre-norm, learned positions": {"norm": "pre", "positions": "learned", "max_positions": 8},
    "biases": {"attention_bias": True},
    "d_k and d_v of their own": {"d_k": 4, "d_v": 10},
    "one decoder layer": {"num_decoder_layers": 1},
}
variants = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def make_model(settings: dict[str, Any]) -> Transformer:
    """A model with weights without a pattern, in training, with dropout of everything."""
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    dropout = {"dropout": 0.3, "attention_dropout": 0.3}
    model = Transformer(ModelConfig(d_model=D, d_ff=32, num_heads=H, **layers | dropout | settings), V, V).double()
    torch.manual_seed(5)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


class Inputs:
    """What goes into each attention of a pass: queries (P, D), keys and values (R, D)."""

    def __init__(self, model: Transformer, batch: Batch) -> None:
        self.encoder: list[Tensor] = []
        self.decoder: list[Tensor] = []
        self.cross: list[Tensor] = []
        self.memory: list[Tensor] = []
        hooks = []
        for layer in model.layers:
            assert isinstance(layer, EncoderLayer | DecoderLayer)
            kept = self.encoder if isinstance(layer, EncoderLayer) else self.decoder
            hooks.append(layer.self_attn.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0])))
            if isinstance(layer, DecoderLayer):
                projection = layer.cross_attn.q_proj
                hooks.append(projection.register_forward_pre_hook(lambda _, args: self.cross.append(args[0])))
        hooks.append(model.encoder.norm.register_forward_hook(lambda _, __, out: self.memory.append(out)))
        model.eval()
        with torch.no_grad():
            self.logits = model.logits(batch)
        model.train()
        for hook in hooks:
            hook.remove()


def by_hand(attention: MultiHeadAttention, q_LD: Tensor, k_MD: Tensor, causal: bool) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) of one sequence, one head after the other."""
    heads = []
    for head in range(H):
        rows = slice(head * attention.d_k, (head + 1) * attention.d_k)
        q, k = (
            x @ layer.weight[rows].T + (0 if layer.bias is None else layer.bias[rows])
            for x, layer in ((q_LD, attention.q_proj), (k_MD, attention.k_proj))
        )
        scores_LM = q @ k.T / math.sqrt(attention.d_k)
        if causal:
            scores_LM = scores_LM + torch.full(scores_LM.shape, -torch.inf, dtype=torch.float64).triu(1)
        exponentials = scores_LM.exp()
        heads.append(exponentials / exponentials.sum(-1, keepdim=True))
    return torch.stack(heads)


def by_torch(attention: MultiHeadAttention, q_LD: Tensor, k_MD: Tensor, causal: bool) -> Tensor:
    """The same by PyTorch's module, which knows heads of d_model / num_heads only."""
    theirs = nn.MultiheadAttention(D, H, bias=attention.q_proj.bias is not None, batch_first=True).double()
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    theirs.in_proj_weight.data = torch.cat([p.weight for p in projections])
    if attention.q_proj.bias is not None:
        theirs.in_proj_bias.data = torch.cat([p.bias for p in projections])
    mask = torch.ones(len(q_LD), len(k_MD), dtype=torch.bool).triu(1) if causal else None
    _, weights = theirs(q_LD[None], k_MD[None], k_MD[None], attn_mask=mask, average_attn_weights=False)
    assert isinstance(weights, Tensor)
    return weights[0]


@variants
@pytest.mark.parametrize("multiple", [1, 16], ids=["", "tail"])
def test_weights_are_those_of_equation_1(settings: dict[str, Any], multiple: int) -> None:
    """Each sentence's part of the table; the rest, padding, is 0."""
    model, batch = make_model(settings), collate(SRC, TGT, multiple)
    found, inputs = model.attention_weights(batch), Inputs(model, batch)
    assert model.training
    equation_1 = [by_hand, by_torch] if "d_k" not in settings else [by_hand]
    memory = inputs.memory * len(inputs.cross)
    for name, queries, keys, q_layout, k_layout in (
        ("encoder", inputs.encoder, inputs.encoder, batch.src, batch.src),
        ("decoder", inputs.decoder, inputs.decoder, batch.tgt, batch.tgt),
        ("cross", inputs.cross, memory, batch.tgt, batch.src),
    ):
        weights_YBHLM = getattr(found, name)
        layers = model.encoder.layers if name == "encoder" else model.decoder.layers
        shape = (len(layers), len(SRC), H, q_layout.max_length, k_layout.max_length)
        assert weights_YBHLM.shape == shape and weights_YBHLM.dtype == torch.float64
        for number, layer in enumerate(layers):
            attention = layer.cross_attn if name == "cross" else layer.self_attn
            assert isinstance(attention, MultiHeadAttention)
            for i in range(len(SRC)):
                q_LD, k_MD = rows(queries[number], q_layout.offsets, i), rows(keys[number], k_layout.offsets, i)
                expected = torch.zeros(shape[2:], dtype=torch.float64)
                for function in equation_1:
                    expected[:, : len(q_LD), : len(k_MD)] = function(attention, q_LD, k_MD, name == "decoder")
                    torch.testing.assert_close(weights_YBHLM[number, i], expected, rtol=0, atol=1e-12)


def rows(x_PD: Tensor, offsets: Tensor, number: int) -> Tensor:
    return x_PD[offsets[number] : offsets[number + 1]]


@variants
def test_each_query_has_a_distribution(settings: dict[str, Any]) -> None:
    found = make_model(settings).attention_weights(collate(SRC, TGT))
    for weights_YBHLM, lengths in zip(found, (SRC, TGT, TGT), strict=True):
        assert weights_YBHLM is not None
        for i, ids in enumerate(lengths):
            sums = weights_YBHLM[:, i, :, : len(ids)].sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12)
    assert found.decoder is not None and not found.decoder.triu(1).any()


@variants
def test_the_pass_computes_what_the_model_computes(settings: dict[str, Any]) -> None:
    """Written out, attention gives the logits of the fast kernels; afterwards the model is what it was."""
    model, batch = make_model(settings), collate(SRC, TGT)
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    before = Inputs(model, batch).logits
    for attention in attentions:
        attention.seen_weights = []
    torch.testing.assert_close(Inputs(model, batch).logits, before, rtol=0, atol=1e-12)
    assert all(len(attention.seen_weights or []) == 1 for attention in attentions)
    model.attention_weights(batch)
    assert all(attention.seen_weights is None for attention in attentions)
    assert torch.equal(Inputs(model, batch).logits, before)


def test_a_pass_that_fails_leaves_the_model_as_it_was() -> None:
    model = make_model({"positions": "learned", "max_positions": 5})
    with pytest.raises(InputError, match="learned table"):
        model.attention_weights(collate(SRC, TGT))
    assert model.training
    assert all(m.seen_weights is None for m in model.modules() if isinstance(m, MultiHeadAttention))


def test_a_sentence_has_the_weights_that_it_has_alone() -> None:
    model = make_model({})
    together = model.attention_weights(collate(SRC, TGT))
    for i, (src, tgt) in enumerate(zip(SRC, TGT, strict=True)):
        alone: AttentionWeights = model.attention_weights(collate([src], [tgt]))
        for one, all_of_them in zip(alone, together, strict=True):
            assert one is not None and all_of_them is not None
            torch.testing.assert_close(
                one[:, 0], all_of_them[:, i, :, : one.shape[-2], : one.shape[-1]], rtol=0, atol=1e-12
            )
