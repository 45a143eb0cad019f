"""Our layers against `torch.nn`'s, with the same weights, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from transformer_mt.config.sections import ModelConfig
from transformer_mt.model.attention import MultiHeadAttention
from transformer_mt.model.layout import Layout
from transformer_mt.model.transformer import DecoderLayer, EncoderLayer

D, FF, H, B, S, T = 24, 40, 4, 3, 7, 5
SRC_LENGTHS, TGT_LENGTHS = [7, 3, 5], [5, 2, 4]

config_of = {
    (norm, bias): ModelConfig(d_model=D, d_ff=FF, num_heads=H, norm=norm, attention_bias=bias, dropout=0.0)
    for norm in ("post", "pre")
    for bias in (True, False)
}
variants = pytest.mark.parametrize("config", config_of.values(), ids=[f"{n}-bias={b}" for n, b in config_of])


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    """Fill torch's stacked projections with ours; a missing bias is a zero bias."""
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    theirs.in_proj_weight.data = torch.cat([p.weight for p in projections])
    theirs.out_proj.weight.data = ours.out_proj.weight
    for bias, layers in ((theirs.in_proj_bias, projections), (theirs.out_proj.bias, (ours.out_proj,))):
        if bias is not None:
            bias.data = torch.cat(
                [x.new_zeros(x.shape[0]) if (b := p.bias) is None else b for p in layers for x in [p.weight]]
            )


def copy_rest(ours: EncoderLayer | DecoderLayer, theirs: nn.Module) -> None:
    pairs = [(ours.ff.up, theirs.linear1), (ours.ff.down, theirs.linear2), (ours.norm1, theirs.norm1)]
    pairs.append((ours.norm2, theirs.norm2))
    if isinstance(ours, DecoderLayer):
        pairs.append((ours.norm3, theirs.norm3))
    for mine, other in pairs:
        assert isinstance(other, nn.Module)
        other.load_state_dict(mine.state_dict())


def randomise(module: nn.Module) -> None:
    """Weights without a pattern: zero biases and unit norms would hide a mistake."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def assert_equal_rows(found_PD: Tensor, expected_BLD: Tensor, lengths: list[int]) -> None:
    real_ND = torch.cat([rows[:length] for rows, length in zip(expected_BLD, lengths, strict=True)])
    torch.testing.assert_close(found_PD[: sum(lengths)], real_ND, rtol=0, atol=1e-10)


def is_padding(lengths: list[int], longest: int) -> Tensor:
    return torch.arange(longest)[None] >= torch.tensor(lengths)[:, None]


@variants
def test_encoder_layer(config: ModelConfig) -> None:
    ours = EncoderLayer(config).double().eval()
    randomise(ours)
    theirs = nn.TransformerEncoderLayer(D, H, FF, 0.0, batch_first=True, norm_first=config.norm == "pre").double()
    copy_attention(ours.self_attn, theirs.self_attn)
    copy_rest(ours, theirs)
    x = torch.randn(B, S, D, dtype=torch.float64)
    expected = theirs(x, src_key_padding_mask=is_padding(SRC_LENGTHS, S))
    layout = Layout.packed(SRC_LENGTHS, multiple=4)
    assert_equal_rows(ours(layout.pack(x), layout), expected, SRC_LENGTHS)


@variants
def test_decoder_layer(config: ModelConfig) -> None:
    ours = DecoderLayer(config).double().eval()
    randomise(ours)
    theirs = nn.TransformerDecoderLayer(D, H, FF, 0.0, batch_first=True, norm_first=config.norm == "pre").double()
    copy_attention(ours.self_attn, theirs.self_attn)
    copy_attention(ours.cross_attn, theirs.multihead_attn)
    copy_rest(ours, theirs)
    x, memory = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, S, D, dtype=torch.float64)
    expected = theirs(
        x,
        memory,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64),
        memory_key_padding_mask=is_padding(SRC_LENGTHS, S),
    )
    tgt, src = Layout.packed(TGT_LENGTHS), Layout.packed(SRC_LENGTHS, multiple=8)
    found = ours(tgt.pack(x), tgt, ours.cross_attn.project_memory(src.pack(memory)), src)
    assert_equal_rows(found, expected, TGT_LENGTHS)


@pytest.mark.parametrize("lengths", [SRC_LENGTHS, [S] * B], ids=["padded", "full"])
def test_gradients_of_an_encoder_layer(lengths: list[int]) -> None:
    """Backward too: attention and its shared projection have gradients of their own making."""
    ours = EncoderLayer(config_of["post", True]).double()
    randomise(ours)
    theirs = nn.TransformerEncoderLayer(D, H, FF, 0.0, batch_first=True).double()
    copy_attention(ours.self_attn, theirs.self_attn)
    copy_rest(ours, theirs)
    x = torch.randn(B, S, D, dtype=torch.float64)
    layout = Layout.packed(lengths, multiple=8)
    ours(layout.pack(x), layout)[: sum(lengths)].square().sum().backward()
    theirs(x, src_key_padding_mask=is_padding(lengths, S))[~is_padding(lengths, S)].square().sum().backward()
    assert_equal_gradients(ours.self_attn, theirs.self_attn)
    torch.testing.assert_close(ours.ff.up.weight.grad, theirs.linear1.weight.grad, rtol=1e-10, atol=1e-10)


def test_gradients_of_a_decoder_layer() -> None:
    ours = DecoderLayer(config_of["post", True]).double()
    randomise(ours)
    theirs = nn.TransformerDecoderLayer(D, H, FF, 0.0, batch_first=True).double()
    copy_attention(ours.self_attn, theirs.self_attn)
    copy_attention(ours.cross_attn, theirs.multihead_attn)
    copy_rest(ours, theirs)
    x, memory = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, S, D, dtype=torch.float64)
    x.requires_grad_()
    memory.requires_grad_()
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    padding = is_padding(SRC_LENGTHS, S)
    out = theirs(x, memory, tgt_mask=mask, memory_key_padding_mask=padding)[~is_padding(TGT_LENGTHS, T)]
    expected = torch.autograd.grad(out.square().sum(), [x, memory, *theirs.parameters()])
    for parameter, gradient in zip(theirs.parameters(), expected[2:], strict=True):
        parameter.grad = gradient
    tgt, src = Layout.packed(TGT_LENGTHS, multiple=16), Layout.packed(SRC_LENGTHS, multiple=16)
    found = ours(tgt.pack(x), tgt, ours.cross_attn.project_memory(src.pack(memory)), src)[: sum(TGT_LENGTHS)]
    found.square().sum().backward()
    assert_equal_gradients(ours.self_attn, theirs.self_attn)
    assert_equal_gradients(ours.cross_attn, theirs.multihead_attn)
    for mine, other in zip((x.grad, memory.grad), expected[:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def assert_equal_gradients(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    for name, expected in (("weight", theirs.in_proj_weight), ("bias", theirs.in_proj_bias)):
        stacked = torch.cat([getattr(p, name).grad for p in (ours.q_proj, ours.k_proj, ours.v_proj)])
        torch.testing.assert_close(stacked, expected.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.out_proj.weight.grad, theirs.out_proj.weight.grad, rtol=1e-10, atol=1e-10)
