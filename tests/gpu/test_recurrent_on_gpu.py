"""A recurrent model on a GPU, by cuDNN: the CPU's loss and gradients, and the probabilities of its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from transformer_mt.config.sections import ModelConfig
from transformer_mt.decoding.recurrent_scorer import RecurrentScorer
from transformer_mt.model.kinds import new_model
from transformer_mt.model.layout import collate
from transformer_mt.model.recurrent import Recurrent
from transformer_mt.text.vocabulary import BOS_ID, EOS_ID
from transformer_mt.training.optim import FlatGradients
from transformer_mt.training.working_weights import WorkingWeights, flatten_weights

V = 40
SRC = [[4, 5, 6, 7, 8, 9, EOS_ID], [10, 11, EOS_ID], [12, 13, 14, EOS_ID]]
TGT = [[20, 21, 22, EOS_ID], [23, 24, 25, 26, 27, 28, EOS_ID], [29, EOS_ID]]

kinds = pytest.mark.parametrize("attention", ["none", "additive", "dot"])


def on(device: torch.device, attention: Any) -> Recurrent:
    torch.manual_seed(1)
    shape = ModelConfig(
        kind="recurrent", preset="tiny", d_model=32, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0,
        recurrent_attention=attention,
    )  # fmt: skip
    model = new_model(shape, V, V)
    assert isinstance(model, Recurrent)
    return model.to(device)


@kinds
def test_gradients_are_the_cpus(attention: str, device: torch.device) -> None:
    """By the twin that training on a GPU runs, whose weights are views of one tensor."""
    expected = on(torch.device("cpu"), attention)
    loss, _ = expected(collate(SRC, TGT, 8), 0.1)
    loss.backward()
    model = on(device, attention)
    working = WorkingWeights(model, flatten_weights(model), torch.float32)
    gradients = FlatGradients(model)
    found, _ = working.twin(collate(SRC, TGT, 8).to(device), 0.1)
    found.backward()
    working.move_gradients(gradients.buffer)
    assert found.item() == pytest.approx(loss.item(), rel=1e-4)
    wanted = torch.cat([p.grad.flatten() for p in expected.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients.buffer.cpu(), wanted, rtol=1e-3, atol=1e-4)


@kinds
def test_steps_are_the_cpus(attention: str, device: torch.device) -> None:
    found = []
    for place in (device, torch.device("cpu")):
        scorer = RecurrentScorer(on(place, attention).eval(), "float32")
        state = scorer.start(SRC)
        steps = [scorer.step(state, torch.full((3, 1), id, device=place))[:, :, :V].cpu() for id in (BOS_ID, 20, 21)]
        found.append(torch.stack(steps))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-3)


def test_an_update_in_bfloat16(gpu: torch.device) -> None:
    model = on(gpu, "additive")
    working = WorkingWeights(model, flatten_weights(model), torch.bfloat16)
    exact = float(model(collate(SRC, TGT).to(gpu))[1])
    loss, nll = working.twin(collate(SRC, TGT).to(gpu), 0.1)
    loss.backward()
    assert float(nll) == pytest.approx(exact, rel=0.02)
