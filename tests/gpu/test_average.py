"""The average of the weights on a GPU: the numbers of the CPU, without waiting for the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transformer_mt.training.optim import WeightAverage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_the_average_is_the_cpus() -> None:
    models = [nn.Linear(40, 30) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1].cuda()
    averages = [WeightAverage(model, 0.9) for model in models]
    for step in range(1, 20):
        delta = torch.randn(30, 40)
        for model, average in zip(models, averages, strict=True):
            where = model.weight.device
            with torch.no_grad():
                model.weight += delta.to(where)
            is_bad = torch.tensor(step % 5 == 0, device=where)
            torch.cuda.set_sync_debug_mode("error")
            average.update(step, is_bad)
            torch.cuda.set_sync_debug_mode("default")
    for name, weights in averages[0].weights.items():
        torch.testing.assert_close(averages[1].weights[name].cpu(), weights, rtol=1e-5, atol=1e-5)
