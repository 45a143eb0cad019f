"""The average of the weights on a GPU: the numbers of the CPU, without waiting for the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transformer_mt.training.optim import WeightAverage
from transformer_mt.training.working_weights import flatten_weights


@pytest.mark.parametrize("is_flat", [False, True])
def test_the_average_is_the_cpus(is_flat: bool, device: torch.device) -> None:
    models = [nn.Linear(40, 30) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].to(device)
    flat = flatten_weights(models[1]) if is_flat else None
    averages = [WeightAverage(models[0], 0.9), WeightAverage(models[1], 0.9, flat)]
    for step in range(1, 20):
        delta = torch.randn(30, 40)
        for model, average in zip(models, averages, strict=True):
            with torch.no_grad():
                model.weight += delta.to(model.weight.device)
            is_bad = torch.tensor(step % 5 == 0, device=model.weight.device)
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            try:
                average.update(step, is_bad)
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
    for name, weights in averages[0].weights.items():
        torch.testing.assert_close(averages[1].weights[name].cpu(), weights, rtol=1e-5, atol=1e-5)
