"""The recurrent model: its formulas written out, what padding may not change, its steps, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from transformer_mt.checkpoints.model_directory import LoadedModel
from transformer_mt.config.loading import validate
from transformer_mt.config.parts import DecodingConfig
from transformer_mt.config.sections import ModelConfig
from transformer_mt.decoding.recurrent_scorer import RecurrentScorer
from transformer_mt.errors import InputError
from transformer_mt.exchange.ctranslate2 import export_ctranslate2
from transformer_mt.exchange.onnx import export_onnx
from transformer_mt.model import recurrent
from transformer_mt.model.kinds import new_model
from transformer_mt.model.layout import Batch, collate
from transformer_mt.model.recurrent import Recurrent
from transformer_mt.model.transformer import Transformer, count_parameters
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID

V = 30
SRC = [[4, 5, 6, 7, 8, 9, EOS_ID], [10, 11, EOS_ID], [12, 13, 14, EOS_ID]]
TGT = [[20, 21, 22, EOS_ID], [23, 24, 25, 26, 27, 28, EOS_ID], [29, EOS_ID]]

kinds = pytest.mark.parametrize("kind", ["none", "additive", "dot"])


def small_model(kind: str, **options: Any) -> Recurrent:
    torch.manual_seed(7)
    shape: dict[str, Any] = dict(preset="tiny", d_model=8, num_encoder_layers=2, num_decoder_layers=3, dropout=0.0)
    config = ModelConfig(**({"kind": "recurrent", "recurrent_attention": kind} | shape | options))
    model = new_model(config, V, V)
    assert isinstance(model, Recurrent)
    for parameter in model.parameters():  # biases too
        parameter.data.uniform_(-0.7, 0.7)
    return model.double().eval()


def by_sentence(model: Recurrent, src: list[list[int]], tgt: list[list[int]]) -> tuple[Tensor, ...]:
    """The logits (T, V) of each sentence of a batch."""
    return torch.split(model.logits(collate(src, tgt, multiple=4)), [len(ids) for ids in tgt])


def gru_step(layer: torch.nn.Module, suffix: str, x_E: Tensor, h_D: Tensor) -> Tensor:
    """Cho et al. (2014), the reset gate behind the product, as PyTorch (and cuDNN) has it."""
    w = dict(layer.named_parameters())
    a_r, a_z, a_n = (w[f"weight_ih_l0{suffix}"] @ x_E + w[f"bias_ih_l0{suffix}"]).chunk(3)
    b_r, b_z, b_n = (w[f"weight_hh_l0{suffix}"] @ h_D + w[f"bias_hh_l0{suffix}"]).chunk(3)
    r, z = torch.sigmoid(a_r + b_r), torch.sigmoid(a_z + b_z)
    return (1 - z) * torch.tanh(a_n + r * b_n) + z * h_D


def written_out(model: Recurrent, src: list[int], tgt: list[int]) -> tuple[Tensor, Tensor]:
    """Logits (T, V) and weights (T, M) of one pair without dropout, position by position."""
    D, scale = model.config.d_model, math.sqrt(model.config.d_model)
    x = [model.src_embed.weight[i] * scale for i in src]
    for n, layer in enumerate(model.encoder):
        there: list[Tensor] = []
        back: list[Tensor] = []
        h = h_back = torch.zeros(D // 2, dtype=torch.float64)
        for one, other in zip(x, reversed(x), strict=True):
            h, h_back = gru_step(layer, "", one, h), gru_step(layer, "_reverse", other, h_back)
            there.append(h)
            back.insert(0, h_back)
        out = [torch.cat(pair) for pair in zip(there, back, strict=True)]
        x = out if n == 0 else [a + b for a, b in zip(x, out, strict=True)]
        last = torch.cat([there[-1], back[0]])
    states = list(torch.tanh(model.first_states.weight @ last + model.first_states.bias).chunk(3))
    logits, weights = [], []
    for i in [BOS_ID, *tgt[:-1]]:
        y = states[0] = gru_step(model.decoder[0], "", model.tgt_embed.weight[i] * scale, states[0])
        context = last
        if (attention := model.attention) is not None:
            W, U = attention.q_proj.weight, attention.k_proj.weight
            if attention.v is None:
                scores = torch.stack([(W @ y) @ (U @ h) / math.sqrt(D) for h in x])
            else:
                scores = torch.stack([attention.v.weight[0] @ torch.tanh(W @ y + U @ h) for h in x])
            weights.append(scores.exp() / scores.exp().sum())
            context = sum((a * h for a, h in zip(weights[-1], x, strict=True)), torch.zeros(D, dtype=torch.float64))
        for n in (1, 2):
            states[n] = gru_step(model.decoder[n], "", torch.cat([y, context]), states[n])
            y = y + states[n]
        readout = torch.tanh(model.readout.weight @ torch.cat([y, context]) + model.readout.bias)
        logits.append(model.generator.weight @ readout)
    return torch.stack(logits), torch.stack(weights) if weights else torch.empty(0)


@kinds
def test_model_is_its_formulas(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(kind)
    batch = collate(SRC, TGT, multiple=4)
    for block in (1, 1 << 20):  # additive attention in blocks of one query, and at once
        monkeypatch.setattr(recurrent, "_BLOCK", block)
        found = model.logits(batch).split([len(ids) for ids in TGT])
        seen = model.attention_weights(batch)
        assert seen.encoder is None and seen.decoder is None
        for i, (src, tgt) in enumerate(zip(SRC, TGT, strict=True)):
            logits, weights = written_out(model, src, tgt)
            torch.testing.assert_close(found[i], logits, rtol=0, atol=1e-12)
            if kind == "none":
                assert seen.cross is None
            else:
                assert seen.cross is not None and seen.cross.shape == (1, 3, 1, 7, 7)
                expected = torch.zeros(7, 7, dtype=torch.float64)
                expected[: len(tgt), : len(src)] = weights
                torch.testing.assert_close(seen.cross[0, i, 0], expected, rtol=0, atol=1e-12)


@kinds
def test_company_changes_nothing(kind: str) -> None:
    """A sentence alone, without padding or tail, gives the same logits, loss and gradients as in company."""
    model = small_model(kind)
    for logits, src, tgt in zip(by_sentence(model, SRC, TGT), SRC, TGT, strict=True):
        torch.testing.assert_close(logits, model.logits(collate([src], [tgt])), rtol=0, atol=1e-12)
    model(collate(SRC, TGT, multiple=8), 0.1)[0].backward()
    padded = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for src, tgt in zip(SRC, TGT, strict=True):
        model(collate([src], [tgt]), 0.1)[0].backward()
    for name, parameter in model.named_parameters():
        assert padded[name].abs().sum() > 0, name
        torch.testing.assert_close(parameter.grad, padded[name], rtol=1e-9, atol=1e-10, msg=name)


@kinds
def test_no_target_position_sees_a_later_one(kind: str) -> None:
    model = small_model(kind)
    before = by_sentence(model, SRC, TGT)[1]
    for position in range(1, 6):
        changed = [ids.copy() for ids in TGT]
        changed[1][position] = 4  # a label, and the input of the next position
        after = by_sentence(model, SRC, changed)[1]
        torch.testing.assert_close(after[: position + 1], before[: position + 1], rtol=0, atol=1e-12)
        assert (after[position + 1] - before[position + 1]).abs().max() > 1e-3


def test_without_attention_the_decoder_gets_one_vector() -> None:
    model, batch = small_model("none"), collate(SRC, TGT)
    memory = model.encode(batch.src_ids_P, batch.src)
    expected = model.decode(batch.tgt_in_P, batch.tgt, memory)
    nothing = replace(memory, states_BMD=torch.full_like(memory.states_BMD, math.nan))
    assert torch.equal(model.decode(batch.tgt_in_P, batch.tgt, nothing), expected)


@kinds
def test_steps_of_search_are_the_forced_pass(kind: str) -> None:
    """Two hypotheses a sentence that change places, and sentences that leave the batch."""
    model = small_model(kind).float()
    scorer = RecurrentScorer(model, "float32")
    hypotheses = [[20, 21, 22, 23], [24, 25, 26, 27]]
    expected = [[by_sentence(model, [src], [ids])[0].log_softmax(-1) for ids in hypotheses] for src in SRC]
    state = scorer.start(SRC)
    found = scorer.step(state, torch.full((3, 1), BOS_ID))[:, :, :V]
    torch.testing.assert_close(found[:, 0], torch.stack([of[0][0] for of in expected]), rtol=0, atol=1e-5)
    state.select(None, torch.zeros(3, 2, dtype=torch.int64))
    order, kept = [0, 1], [0, 1, 2]
    for position in range(3):
        found = scorer.step(state, torch.tensor([[hypotheses[w][position] for w in order]] * len(kept)))
        assert found.shape[2] == 64 and bool((found[:, :, V:] == -math.inf).all())  # as an `Engine`'s
        wanted = torch.stack([torch.stack([expected[b][w][position + 1] for w in order]) for b in kept])
        torch.testing.assert_close(found[:, :, :V], wanted, rtol=0, atol=1e-5)
        if position == 0:
            kept = [2, 0]
            state.select(torch.tensor([2, 0]), torch.tensor([[1, 0], [1, 0]]))
            order = [1, 0]
    assert scorer.bytes_a_sentence(20, 20, 2) > 0


def test_dropout_is_drawn_in_training_only() -> None:
    model, batch = small_model("additive", dropout=0.3), collate(SRC, TGT)
    assert torch.equal(model.logits(batch), model.logits(batch))
    model.train()
    assert not torch.equal(model.logits(batch), model.logits(batch))


def test_products_in_bfloat16_are_near_those_in_float32() -> None:
    """The recurrences stay in float32; gradients reach all weights in their own precision."""
    model, batch = small_model("additive").float(), collate(SRC, TGT)
    exact = float(model(batch)[1])
    with torch.autocast("cpu", torch.bfloat16):
        loss, nll = model(batch)
    loss.backward()
    assert float(nll) == pytest.approx(exact, rel=0.02) and float(nll) != exact
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters())


def test_number_of_parameters() -> None:
    """Counted by hand, and as many as the tiny Transformer has with 4,000 pieces, within 2 %."""
    transformer = count_parameters(new_model(ModelConfig(preset="tiny"), 4000, 4000))
    for kind, D, own in [("none", 206, 0), ("additive", 200, 2 * 200 * 200 + 200), ("dot", 200, 2 * 200 * 200)]:
        config = ModelConfig(
            kind="recurrent",
            preset="tiny",
            d_model=D,
            num_encoder_layers=1,
            num_decoder_layers=2,
            recurrent_attention=kind,  # type: ignore[arg-type]
        )

        def gru(width: int, size: int) -> int:
            return 3 * size * (width + size + 2)

        layers = 2 * gru(D, D // 2) + gru(D, D) + gru(2 * D, D)
        first_states, readout = D * 2 * D + 2 * D, 2 * D * D + D
        counted = count_parameters(new_model(config, 4000, 4000))
        assert counted == 4000 * D + layers + first_states + readout + own
        assert counted == pytest.approx(transformer, rel=0.02)


@pytest.mark.parametrize(
    ("model", "train", "words"),
    [
        ({"num_heads": 16}, {}, "model: num_heads: of no meaning with kind: recurrent; remove it"),
        ({"norm": "pre", "d_k": 8}, {}, "model: d_k, norm: of no meaning with kind: recurrent; remove them"),
        ({"d_model": 33}, {}, "model: d_model 33 is odd"),
        ({}, {"compile": True}, "train.compile is for model.kind: transformer"),
        ({}, {"recompute_activations": True}, "train.recompute_activations is for model.kind: transformer"),
        (
            {"kind": "transformer", "recurrent_attention": "dot"},
            {},
            "model: recurrent_attention dot needs kind: recurr",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(model: dict[str, Any], train: dict[str, Any], words: str) -> None:
    tree = {
        "data": {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "a", "tgt": "b"}]},
        "model": {"kind": "recurrent", "preset": "tiny"} | model,
        "train": train,
    }
    with pytest.raises(InputError, match=words):
        validate(tree, "c.yaml")


def test_what_a_run_writes_of_its_configuration_is_accepted() -> None:
    config = ModelConfig(kind="recurrent", preset="tiny", d_model=30)  # its number of heads does not divide it
    assert ModelConfig(**config.model_dump()) == config
    assert ModelConfig().kind == "transformer" and isinstance(new_model(ModelConfig(d_model=16), V, V), Transformer)


def test_int8_and_export_are_refused(tmp_path: Any, tokenizers: Any) -> None:
    model = small_model("dot")
    with pytest.raises(InputError, match=r"^search\.precision int8: only for model\.kind transformer"):
        RecurrentScorer(model, "int8")
    with pytest.raises(InputError, match=r"^model\.kind recurrent: only Transformers are exported"):
        config = DecodingConfig.model_validate({"data": {"src_lang": "en", "tgt_lang": "de"}, "model": {}})
        export_ctranslate2(LoadedModel(tmp_path, model, config, tokenizers, 9), tmp_path / "x", "float32")
    with pytest.raises(InputError, match=r"^model\.kind recurrent: only Transformers are exported to ONNX"):
        export_onnx(model, tokenizers, tmp_path / "x")


def batch_of_equal_lengths() -> Batch:
    return collate([[4, 5, EOS_ID]] * 2, [[6, EOS_ID]] * 2)


@kinds
def test_batch_without_padding(kind: str) -> None:
    found = small_model(kind).logits(batch_of_equal_lengths())
    assert torch.equal(found[:2], found[2:])
