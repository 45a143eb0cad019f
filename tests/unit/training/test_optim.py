"""Schedules against the paper's equation 3 and by hand, Adam against Kingma & Ba's algorithm 1, flat gradients, and the
average of the weights against its formula."""

from __future__ import annotations

import math
import signal
from typing import Any

import pytest
import torch
from torch import nn

from transformer_mt.checkpoints.training_state import TrainState
from transformer_mt.config.sections import Config, ModelConfig, OptimConfig
from transformer_mt.model.transformer import Transformer, count_parameters
from transformer_mt.training import optim
from transformer_mt.training.optim import FlatGradients, WeightAverage, adam, learning_rate
from transformer_mt.training.resuming import tell_changes
from transformer_mt.training.working_weights import flatten_weights


class Small(nn.Module):
    """A matrix, a vector and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        nn.init.normal_(self.linear.bias)


def set_gradients(model: nn.Module, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        p.grad = gradient.to(p.dtype)
    return gradients


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def papers(step: int, warmup_steps: int = 4000, d_model: int = 512) -> float:
    return learning_rate(step, OptimConfig(warmup_steps=warmup_steps), d_model, max_steps=1)


def test_equation_3_by_hand() -> None:
    # The base model: d_model 512, 4000 steps of warm-up. 1 / sqrt(512 · 4000) = 1 / 1431.08…
    assert papers(4000) == pytest.approx(6.99e-4, abs=5e-7)
    assert papers(4000) == pytest.approx(1 / math.sqrt(512 * 4000), rel=1e-12)
    assert papers(1) == pytest.approx(papers(4000) / 4000, rel=1e-12)
    assert papers(2000) == pytest.approx(papers(4000) / 2, rel=1e-12)
    assert papers(16_000) == pytest.approx(papers(4000) / 2, rel=1e-12)
    assert papers(100_000) == pytest.approx(1 / math.sqrt(512 * 100_000), rel=1e-12)
    assert papers(25, warmup_steps=100, d_model=64) == pytest.approx(25 / (8 * 1000), rel=1e-12)


@pytest.mark.parametrize("warmup_steps", [1, 3, 40])
def test_the_peak_is_at_the_end_of_the_warm_up(warmup_steps: int) -> None:
    paper = [papers(step, warmup_steps) for step in range(1, 120)]
    assert paper.index(max(paper)) + 1 == warmup_steps
    for schedule in ("inverse_sqrt", "cosine", "linear", "stable"):
        decay = {"decay_steps": 30} if schedule == "stable" else {}
        config = OptimConfig.model_validate({"schedule": schedule, "lr": 0.01, "warmup_steps": warmup_steps, **decay})
        rates = [learning_rate(step, config, 512, max_steps=119) for step in range(1, 120)]
        assert rates.index(max(rates)) + 1 == warmup_steps
        assert max(rates) == pytest.approx(0.01, rel=1e-12)


def test_inverse_square_root_by_hand_and_with_the_papers_peak() -> None:
    config = OptimConfig(schedule="inverse_sqrt", lr=0.5, warmup_steps=10)
    rates = [learning_rate(step, config, 512, max_steps=99) for step in (1, 5, 10, 40, 90)]
    assert rates == pytest.approx([0.05, 0.25, 0.5, 0.25, 0.5 / 3], rel=1e-12)
    config = OptimConfig(schedule="inverse_sqrt", lr=1 / math.sqrt(512 * 4000), warmup_steps=4000)
    for step in (1, 17, 3999, 4000, 4001, 100_000):
        assert learning_rate(step, config, 8, max_steps=1) == pytest.approx(papers(step), rel=1e-12)


def test_cosine_by_hand() -> None:
    config = OptimConfig(schedule="cosine", lr=2.0, warmup_steps=10)
    rates = [learning_rate(step, config, 512, max_steps=110) for step in (1, 5, 10, 35, 60, 85, 110, 500)]
    quarter = math.cos(math.pi / 4)
    assert rates == pytest.approx([0.2, 1.0, 2.0, 1 + quarter, 1.0, 1 - quarter, 0.0, 0.0], rel=1e-12, abs=1e-15)
    assert learning_rate(10, config, 512, max_steps=10) == 2.0  # all of the run is warm-up


def test_linear_and_stable_by_hand() -> None:
    config = OptimConfig(schedule="linear", lr=2.0, warmup_steps=10)
    rates = [learning_rate(step, config, 512, max_steps=110) for step in (1, 5, 10, 35, 60, 109, 110, 500)]
    assert rates == pytest.approx([0.2, 1.0, 2.0, 1.5, 1.0, 0.02, 0.0, 0.0], rel=1e-12, abs=1e-15)
    config = OptimConfig(schedule="stable", lr=2.0, warmup_steps=10, decay_steps=20)
    for max_steps in (110, 200):
        steps = (1, 5, 10, 11, max_steps - 20, max_steps - 15, max_steps - 1, max_steps, 500)
        rates = [learning_rate(step, config, 512, max_steps) for step in steps]
        assert rates == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 1.5, 0.1, 0.0, 0.0], rel=1e-12, abs=1e-15)
    # The run is shorter than rise and fall.
    rates = [learning_rate(step, config, 512, max_steps=20) for step in (5, 10, 15, 20)]
    assert rates == pytest.approx([1.0, 2.0, 1.0, 0.0], rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "step", "is_warned"),
    [
        ({"schedule": "stable", "decay_steps": 20}, 79, False),  # on the plateau a run's length is of no account
        ({"schedule": "stable", "decay_steps": 20}, 80, False),  # nor at its end
        ({"schedule": "stable", "decay_steps": 20}, 81, True),
        ({"schedule": "linear"}, 50, True),
        ({"schedule": "cosine"}, 50, True),
        ({"schedule": "inverse_sqrt"}, 90, False),
    ],
)
def test_a_rate_that_leaves_its_way_is_told(schedule: dict[str, Any], step: int, is_warned: bool) -> None:
    def config(max_steps: int) -> Config:
        data = {"src_lang": "en", "tgt_lang": "de", "train": [{"src": "en", "tgt": "de"}]}
        optim = {"lr": 0.01, "warmup_steps": 10, **schedule}
        return Config.model_validate({"data": data, "optim": optim, "train": {"max_steps": max_steps}})

    lines: list[str] = []
    tell_changes(config(100), config(200), TrainState(step=step), "", lines.append)
    assert any("the learning rate goes on from" in line for line in lines) == is_warned


def test_the_defaults_are_the_papers() -> None:
    group = adam(Small().parameters(), OptimConfig()).param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.98), 1e-9, 0.0)
    assert not group["amsgrad"] and not group["maximize"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_algorithm_1(dtype: torch.dtype, tolerance: float, weight_decay: float) -> None:
    """Kingma & Ba 2015, algorithm 1, in float64; with decay as in Loshchilov & Hutter 2019, algorithm 2."""
    model = Small().to(dtype)
    weights = [p.detach().double().clone() for p in model.parameters()]
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    config = OptimConfig(beta1=0.9, beta2=0.98, eps=1e-3, weight_decay=weight_decay)
    optimizer = adam(model.parameters(), config)
    for step in range(1, 8):
        rate = 0.01 * step
        set_rate(optimizer, rate)
        gradients = set_gradients(model, seed=step)
        optimizer.step()
        for i, g in enumerate(gradients):
            first[i] = 0.9 * first[i] + (1 - 0.9) * g
            second[i] = 0.98 * second[i] + (1 - 0.98) * g * g
            corrected_first = first[i] / (1 - 0.9**step)
            corrected_second = second[i] / (1 - 0.98**step)
            decay = weight_decay * weights[i] if weights[i].dim() > 1 else torch.zeros_like(weights[i])
            weights[i] = weights[i] - rate * (corrected_first / (corrected_second.sqrt() + 1e-3) + decay)
        for p, expected in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(p.detach().double(), expected, rtol=tolerance, atol=tolerance)


def test_only_matrices_decay() -> None:
    """Without a gradient Adam's own step is 0; what is left is the decay, 1 - lr · λ."""
    model = Small().double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = adam(model.parameters(), OptimConfig(weight_decay=0.5))
    set_rate(optimizer, 0.1)
    FlatGradients(model)
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] * (0.95 if name == "linear.weight" else 1.0)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-15, atol=0)


def test_every_parameter_is_optimised_once() -> None:
    model = Transformer(ModelConfig(d_model=8, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1), 9, 9)
    optimized = [p for group in adam(model.parameters(), OptimConfig()).param_groups for p in group["params"]]
    assert len(optimized) == len(set(optimized))
    assert set(optimized) == set(model.parameters())


@pytest.mark.parametrize("steps_before", [0, 3])
def test_an_update_that_is_not_finite_is_not_applied(steps_before: int) -> None:
    """As the trainer does it: ``optimizer.found_inf``. Weights, moments and step count stay as they are."""
    model = Small()
    optimizer = adam(model.parameters(), OptimConfig(weight_decay=0.1))
    set_rate(optimizer, 0.1)
    for seed in range(steps_before):
        set_gradients(model, seed)
        optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
        optimizer.step()

    def snapshot() -> list[torch.Tensor]:
        moments = [optimizer.state[p].get(key, torch.zeros(())) for p in model.parameters() for key in keys]
        return [value.clone() for value in [*model.parameters(), *moments]]

    keys = ("step", "exp_avg", "exp_avg_sq")
    before = snapshot()
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    optimizer.step()
    for old, new in zip(before, snapshot(), strict=True):
        assert torch.equal(new, old.expand_as(new))
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [steps_before] * 4

    # The next one is applied as if nothing had happened.
    set_gradients(model, 99)
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [steps_before + 1] * 4
    for old, p in zip(before, model.parameters(), strict=False):
        assert p.isfinite().all() and not torch.equal(p, old)


def test_gradients_are_views_of_one_buffer() -> None:
    model = Transformer(ModelConfig(d_model=8, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1), 9, 9)
    gradients = FlatGradients(model)
    assert gradients.buffer.numel() == count_parameters(model)  # a shared matrix once
    gradients.buffer.copy_(torch.arange(gradients.buffer.numel()))
    seen = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert torch.equal(seen, gradients.buffer)
    gradients.zero()
    for p in model.parameters():
        assert p.grad is not None and p.grad.shape == p.shape and not p.grad.any()


def test_backward_adds_to_the_buffer() -> None:
    model = Small().double()
    gradients = FlatGradients(model)
    places = [p.grad.data_ptr() for p in model.parameters() if p.grad is not None]
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(model, x), list(model.parameters()))])
    for times in (1, 2, 3):
        loss_of(model, x).backward()
        torch.testing.assert_close(gradients.buffer, times * expected, rtol=1e-12, atol=1e-12)
    adam(model.parameters(), OptimConfig()).step()
    gradients.zero()
    loss_of(model, x).backward()
    assert [p.grad.data_ptr() for p in model.parameters() if p.grad is not None] == places


def loss_of(model: Small, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(model.norm(model.linear(x)).pow(3).sum())


def test_norm_and_clipping() -> None:
    model = Small().double()
    gradients = FlatGradients(model)
    set_flat = torch.arange(1, gradients.buffer.numel() + 1, dtype=torch.float64)
    gradients.buffer.copy_(set_flat)
    norm = math.sqrt(sum(n * n for n in range(1, len(set_flat) + 1)))
    assert float(gradients.norm()) == pytest.approx(norm, rel=1e-12)

    gradients.clip(gradients.norm(), 2 * norm)
    assert torch.equal(gradients.buffer, set_flat)
    gradients.clip(gradients.norm(), 0.5)
    torch.testing.assert_close(gradients.buffer, set_flat * (0.5 / norm), rtol=1e-6, atol=0)
    assert float(gradients.norm()) <= 0.5

    gradients.zero()
    gradients.clip(gradients.norm(), 1.0)
    assert not gradients.buffer.any()


# ---------------------------------------------------------------- average of the weights


def walk(model: nn.Module, steps: int, decay: float) -> tuple[WeightAverage, dict[str, torch.Tensor]]:
    """Random updates, averaged by the class and by the formula in float64."""
    average = WeightAverage(model, decay)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(5)
    for t in range(1, steps + 1):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        average.update(t, torch.tensor(False))
        d = min(decay, (1 + t) / (10 + t))
        expected = {name: d * expected[name] + (1 - d) * p.detach().double() for name, p in model.named_parameters()}
    return average, expected


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_the_formula(decay: float) -> None:
    model = Small()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    average, expected = walk(model, 200, decay)
    assert average.weights.keys() == expected.keys()
    for name, weights in average.weights.items():
        torch.testing.assert_close(weights.double(), expected[name], rtol=1e-5, atol=1e-5)
        assert (weights - start[name]).abs().max() > 0.5


def test_the_average_by_hand() -> None:
    """Of 1, 2, 3, … from 0: d is 2/11 after the first update, 3/12 after the second; then 0.3 holds."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.3)
    found = []
    for t in range(1, 5):
        nn.init.constant_(model.weight, float(t))
        average.update(t, torch.tensor(False))
        found.append(float(average.weights["weight"]))
    first = 9 / 11
    second = 3 / 12 * first + 9 / 12 * 2
    third = 0.3 * second + 0.7 * 3  # 4/13 is more
    assert found == pytest.approx([first, second, third, 0.3 * third + 0.7 * 4], rel=1e-6)


def test_an_update_that_was_not_applied_does_not_move_the_average() -> None:
    model = Small()
    average, _ = walk(model, 3, 0.9)
    before = {name: weights.clone() for name, weights in average.weights.items()}
    average.update(4, torch.tensor(True))
    assert all(torch.equal(average.weights[name], weights) for name, weights in before.items())


def test_the_average_is_in_the_model_for_a_while() -> None:
    model = Small()
    gradients = FlatGradients(model)
    gradients.buffer.fill_(1.0)
    average, _ = walk(model, 3, 0.9)
    averaged = {name: weights.clone() for name, weights in average.weights.items()}
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    places = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), average.in_the_model():
        assert all(torch.equal(p, averaged[name]) for name, p in model.named_parameters())
        assert not any(torch.equal(p, weights[name]) for name, p in model.named_parameters())
        _ = 1 / 0
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert all(torch.equal(average.weights[name], value) for name, value in averaged.items())
    assert [p.data_ptr() for p in model.parameters()] == places
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())


@pytest.mark.parametrize("is_flat", [False, True])
def test_interrupts_amid_a_swap_leave_the_weights_and_the_average_whole(
    monkeypatch: pytest.MonkeyPatch, is_flat: bool
) -> None:
    """One comes after each slice, on the way there and on the way back; each is raised when the swap is done."""
    monkeypatch.setattr(optim, "_SWAPPED_AT_ONCE", 5)
    model = Small()
    flat = flatten_weights(model) if is_flat else None
    average = WeightAverage(model, 0.9, flat)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    both: list[dict[str, torch.Tensor]] = [dict(model.named_parameters()), average.weights]
    before = [{name: p.detach().clone() for name, p in one.items()} for one in both]
    plain_copy = torch.Tensor.copy_

    def copy(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        return plain_copy(tensor, other)

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    with pytest.raises(KeyboardInterrupt), average.in_the_model():
        pytest.fail("the interrupt was lost")
    monkeypatch.undo()
    for one, expected in zip(both, before, strict=True):
        assert all(torch.equal(one[name], weights) for name, weights in expected.items())
