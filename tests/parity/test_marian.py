"""The whole model against Hugging Face's independent Marian implementation, with the same weights."""

from __future__ import annotations

import pytest
import torch

from transformer_mt.config.sections import ModelConfig
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer, sinusoids
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID, PAD_ID

transformers = pytest.importorskip("transformers")

V = 50
SRC = [[4, 5, 6, 7, 8, EOS_ID], [9, 10, EOS_ID], [11, 12, 13, 14, EOS_ID]]
TGT = [[20, 21, 22, EOS_ID], [23, 24, 25, 26, 27, EOS_ID], [28, EOS_ID]]


def marian_of(model: Transformer) -> torch.nn.Module:
    """Marian's model (biases everywhere, post-norm, sinusoids in halves) filled with our weights."""
    config = model.config
    marian: torch.nn.Module = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=V,
            d_model=config.d_model,
            encoder_layers=config.num_encoder_layers,
            decoder_layers=config.num_decoder_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=64,
            pad_token_id=PAD_ID,
            eos_token_id=EOS_ID,
            decoder_start_token_id=BOS_ID,
            dropout=0.0,
        )
    ).eval()
    names = {"self_attn": "self_attn", "cross_attn": "encoder_attn", "norm1": "self_attn_layer_norm"}
    names |= {"ff.up": "fc1", "ff.down": "fc2"}
    state = {"model.shared.weight": model.src_embed.weight}
    for side in ("encoder", "decoder"):
        norms = {"norm2": "final_layer_norm" if side == "encoder" else "encoder_attn_layer_norm"}
        norms["norm3"] = "final_layer_norm"
        for name, parameter in getattr(model, side).layers.named_parameters():
            for ours, theirs in {**names, **norms}.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            state[f"model.{side}.layers.{name}"] = parameter
        state[f"model.{side}.embed_tokens.weight"] = model.src_embed.weight
        state[f"model.{side}.embed_positions.weight"] = sinusoids(64, config.d_model).float()
    state["lm_head.weight"] = model.src_embed.weight
    state["final_logits_bias"] = torch.zeros(1, V)
    marian.load_state_dict(state)
    return marian


def padded(sequences: list[list[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in sequences], True, PAD_ID)


def test_logits_equal_marians() -> None:
    torch.manual_seed(3)
    shape = ModelConfig(
        d_model=32, d_ff=64, num_heads=4, num_encoder_layers=3, num_decoder_layers=2, attention_bias=True, dropout=0.0
    )
    model = Transformer(shape, V, V).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)  # new biases are zero and would prove nothing
    with torch.no_grad():
        found = model.logits(collate(SRC, TGT))
        expected = marian_of(model)(
            input_ids=padded(SRC),
            attention_mask=(padded(SRC) != PAD_ID).long(),
            decoder_input_ids=padded([[BOS_ID, *ids[:-1]] for ids in TGT]),
        ).logits
    assert expected.std() > 0.3  # the comparison is not of zeros
    for ours, theirs in zip(found.split([len(ids) for ids in TGT]), expected, strict=True):
        torch.testing.assert_close(ours, theirs[: len(ours)], rtol=0, atol=1e-4)
