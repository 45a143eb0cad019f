"""The weights as a GPU's training reads them, here on a CPU: the model's numbers, from copies that autograd sees."""

from __future__ import annotations

import pytest
import torch

from transformer_mt.config.sections import ModelConfig, OptimConfig
from transformer_mt.model import kinds
from transformer_mt.model.layout import Batch, collate
from transformer_mt.model.transformer import EncoderDecoder
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.optim import FlatGradients, new_optimizer
from transformer_mt.training.working_weights import WorkingWeights, flatten_weights

SHAPE = ModelConfig(d_model=16, d_ff=24, num_heads=2, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
VARIANTS = [
    SHAPE,
    SHAPE.model_copy(update={"norm": "pre", "tie_embeddings": "none"}),
    SHAPE.model_copy(update={"attention_bias": True, "d_k": 3, "d_v": 5}),
    SHAPE.model_copy(update={"positions": "learned", "max_positions": 9, "tie_embeddings": "target"}),
]


def batches() -> list[Batch]:
    first = collate([[4, 5, 6, EOS_ID], [7, EOS_ID]], [[8, EOS_ID], [9, 10, 11, EOS_ID]], 8)
    return [first, collate([[12, EOS_ID]], [[13, 4, 5, EOS_ID]], 8)]


def gradients_of(model: EncoderDecoder) -> torch.Tensor:
    """The ordinary way: autograd adds to the model's own gradients."""
    gradients = FlatGradients(model)
    for batch in batches():
        model(batch, 0.1)[0].backward()
    return gradients.buffer


def gradients_by_twin(model: EncoderDecoder, working: WorkingWeights) -> torch.Tensor:
    gradients = FlatGradients(model)
    working.refresh()
    for batch in batches():
        working.twin(batch, 0.1)[0].backward()
        working.move_gradients(gradients.buffer)
    return gradients.buffer


def new_model(shape: ModelConfig) -> EncoderDecoder:
    torch.manual_seed(1)
    return kinds.new_model(shape, 20, 20).train()


RECURRENT = ModelConfig(
    kind="recurrent", preset="tiny", d_model=16, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0
)


@pytest.mark.parametrize("part", ["embeddings", "encoder", "decoder"])
@pytest.mark.parametrize("shape", [*VARIANTS, RECURRENT])
def test_frozen_weights_have_no_gradient(shape: ModelConfig, part: str) -> None:
    """Theirs are 0, those of the others as before, also by the twin; and the optimizer does not have them."""
    full, model, other = new_model(shape), new_model(shape), new_model(shape)
    for one in (model, other):
        one.freeze([part])
    frozen = [not p.requires_grad for p in model.parameters()]
    if part == "decoder":  # also what a recurrent one has besides its layers
        rest = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert rest <= {"encoder", "src_embed", "tgt_embed", "src_positions", "tgt_positions", "generator"}
    expected = gradients_of(full).split([p.numel() for p in full.parameters()])
    assert any(frozen) and not all(frozen)
    pairs = zip(expected, frozen, strict=True)
    expected_flat = torch.cat([torch.zeros_like(gradient) if is_frozen else gradient for gradient, is_frozen in pairs])
    torch.testing.assert_close(gradients_of(model), expected_flat)
    working = WorkingWeights(other, flatten_weights(other), torch.float32)
    torch.testing.assert_close(gradients_by_twin(other, working), expected_flat)
    for name in ("adam", "muon"):
        if name == "muon" and shape is RECURRENT:
            continue  # which the configuration refuses
        before = [p.detach().clone() for p in other.parameters()]
        optimizer = new_optimizer(other, OptimConfig(optimizer=name), torch.float32)
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step()
        for old, p, is_frozen in zip(before, other.parameters(), frozen, strict=True):
            assert torch.equal(old, p) == is_frozen


@pytest.mark.parametrize("shape", [*VARIANTS, RECURRENT])
def test_in_float32_the_gradients_are_the_models(shape: ModelConfig) -> None:
    """Two micro-batches, from which both ways add up the same products."""
    expected, model = gradients_of(new_model(shape)), new_model(shape)
    working = WorkingWeights(model, flatten_weights(model), torch.float32)
    torch.testing.assert_close(gradients_by_twin(model, working), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", VARIANTS)
def test_in_bfloat16_they_are_as_close_as_autocasts(shape: ModelConfig) -> None:
    expected, model = gradients_of(new_model(shape)), new_model(shape)
    with torch.autocast("cpu", torch.bfloat16):
        by_autocast = gradients_of(new_model(shape))
    working = WorkingWeights(model, flatten_weights(model), torch.bfloat16)
    found = gradients_by_twin(model, working)
    assert found.dtype is torch.float32
    assert {p.dtype for p in working.twin.parameters()} == {torch.bfloat16}
    assert 0 < (found - expected).norm() < 1.5 * (by_autocast - expected).norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_copies_follow_the_model(precision: torch.dtype) -> None:
    model = new_model(SHAPE)
    working = WorkingWeights(model, flatten_weights(model), precision)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(0.01)
    working.refresh()
    twins = dict(working.twin.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(twins[name], parameter.to(precision)), name
    weights = dict(model.named_parameters())
    for attention, letters in ("encoder.layers.1.self_attn", "qkv"), ("decoder.layers.0.cross_attn", "kv"):
        joined = torch.cat([weights[f"{attention}.{letter}_proj.weight"] for letter in letters])
        assert torch.equal(twins[f"{attention}.joined_weight"], joined.to(precision))


def test_the_model_is_what_it_was() -> None:
    """Its weights become views of one tensor; their names, shapes and contents stay."""
    before, model = new_model(SHAPE).state_dict(), new_model(SHAPE)
    flat = flatten_weights(model)
    WorkingWeights(model, flat, torch.bfloat16)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flat.numel() == sum(p.numel() for p in model.parameters())


def test_rows_stay_in_the_precision_of_the_weights_between_layers() -> None:
    model = new_model(SHAPE)
    working = WorkingWeights(model, flatten_weights(model), torch.bfloat16)
    seen = []
    for layer in working.twin.layers:
        layer.register_forward_hook(lambda _layer, inputs, out: seen.extend([inputs[0].dtype, out.dtype]))
    loss, nll = working.twin(batches()[0], 0.1)
    assert set(seen) == {torch.bfloat16} and len(seen) == 8
    assert loss.dtype is nll.dtype is torch.float32


def test_gradients_that_were_not_moved_can_be_dropped() -> None:
    model = new_model(SHAPE)
    working = WorkingWeights(model, flatten_weights(model), torch.float32)
    expected = gradients_by_twin(model, working).clone()
    working.twin(batches()[0], 0.1)[0].backward()
    working.drop_gradients()
    assert torch.equal(gradients_by_twin(model, working), expected)
