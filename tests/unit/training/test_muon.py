"""Muon's steps against a singular value decomposition and against PyTorch's Muon; what else it has to keep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from transformer_mt.config.sections import ModelConfig, OptimConfig
from transformer_mt.model.transformer import Transformer
from transformer_mt.training import muon
from transformer_mt.training.muon import Muon, orthogonalize
from transformer_mt.training.optim import FlatGradients, new_optimizer

SHAPES = [(6, 6), (4, 10), (10, 4), (6, 6)]  # square, wide, tall


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(matrices: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for matrix in matrices:
        matrix.grad = torch.randn(matrix.shape, generator=generator)


def optimizer_of(matrices: list[nn.Parameter], weight_decay: float = 0.0, rate: float = 0.01) -> Muon:
    optimizer = Muon(matrices, torch.optim.AdamW([nn.Parameter(torch.zeros(1))]), weight_decay, torch.float32)
    optimizer.param_groups[0]["lr"] = rate
    return optimizer


def test_singular_vectors_stay_and_values_are_near_one() -> None:
    torch.manual_seed(1)
    matrices = torch.randn(5, 8, 20, dtype=torch.float64) * torch.logspace(0, 3, 5)[:, None, None]
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalize(matrices) @ vh.mT
    # The polynomial on numbers instead of matrices, five times.
    expected = values / values.square().sum(-1, keepdim=True).sqrt()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    torch.testing.assert_close(found, torch.diag_embed(expected), rtol=1e-6, atol=1e-6)
    assert float(expected.min()) > 0.65 and float(expected.max()) < 1.25


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("at_once", [1 << 24, 80, 1])
def test_its_steps_are_those_of_pytorch(weight_decay: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's works on one matrix after the other, and in bfloat16: so far are they apart."""
    monkeypatch.setattr(muon, "_MOST_NUMBERS", at_once)
    ours, theirs = parameters(), parameters()
    optimizer = optimizer_of(ours, weight_decay)
    other = torch.optim.Muon(theirs, lr=0.01, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(6):
        before = [matrix.detach().clone() for matrix in theirs]
        for matrices in (ours, theirs):
            set_gradients(matrices, step)
        optimizer.step()
        other.step()
        for one, two, old in zip(ours, theirs, before, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=4e-4 * (step + 1))
            moved = (two - old).square().mean().sqrt()
            assert 1e-3 < moved < 4e-3  # which the tolerance is small beside


def test_an_update_that_is_not_finite_is_not_applied() -> None:
    matrices = parameters()
    optimizer = optimizer_of(matrices, weight_decay=0.1)
    set_gradients(matrices, 1)
    optimizer.step()

    def snapshot() -> list[Tensor]:
        return [
            tensor.clone() for matrix in matrices for tensor in (matrix.detach(), optimizer.state[matrix]["momentum"])
        ]

    before = snapshot()
    set_gradients(matrices, 2)
    for matrix, value in zip(matrices, (math.nan, math.inf, -math.inf, 1.0), strict=True):
        assert matrix.grad is not None
        matrix.grad[0, 0] = value
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(map(torch.equal, snapshot(), before))

    set_gradients(matrices, 3)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert all(
        tensor.isfinite().all() and not torch.equal(tensor, old) for tensor, old in zip(snapshot(), before, strict=True)
    )


def test_it_is_for_the_matrices_of_the_layers() -> None:
    shape = ModelConfig(
        d_model=8, d_ff=12, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, attention_bias=True
    )
    model = Transformer(shape, 9, 9)
    optimizer = new_optimizer(model, OptimConfig(optimizer="muon", weight_decay=0.1), torch.float32)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    assert sorted(name for group in groups for name in group) == sorted(names.values())
    matrices, decaying, others = groups
    attention = [f"{letter}_proj.weight" for letter in ("q", "k", "v", "out")]
    uses = ("encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.0.cross_attn")
    layers = [f"{use}.{name}" for use in uses for name in attention]
    layers += [f"{side}.layers.0.ff.{name}.weight" for side in ("encoder", "decoder") for name in ("up", "down")]
    assert sorted(matrices) == sorted(layers)
    assert decaying == ["src_embed.weight"] and all(
        name.endswith(("bias", "norm1.weight", "norm2.weight", "norm3.weight")) for name in others
    )
    assert {*optimizer.state} == {*names}
    # All of them learn.
    before = [parameter.detach().clone() for parameter in names]
    FlatGradients(model).buffer.normal_()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    assert not any(map(torch.equal, before, names))
