"""On a GPU: the same numbers as on the CPU, and training in bfloat16 that learns. Skipped without CUDA."""

from __future__ import annotations

import pytest
import torch

from transformer_mt.config.sections import ModelConfig, OptimConfig
from transformer_mt.model.layout import collate
from transformer_mt.model.transformer import Transformer
from transformer_mt.system.device import autocast
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.optim import FlatGradients, adam

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SHAPE = ModelConfig(d_model=64, d_ff=128, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
SRC = [[4, 5, 6, 7, EOS_ID], [8, 9, EOS_ID], [10, 11, 12, EOS_ID]]
TGT = [[13, 14, EOS_ID], [15, 16, 17, 18, EOS_ID], [19, EOS_ID]]


def test_loss_and_gradients_equal_the_cpus() -> None:
    torch.manual_seed(1)
    on_cpu = Transformer(SHAPE, 32, 32)
    on_gpu = Transformer(SHAPE, 32, 32)
    on_gpu.load_state_dict(on_cpu.state_dict())
    on_gpu.to("cuda")
    batch = collate(SRC, TGT)
    expected, _ = on_cpu(batch, 0.1)
    found, _ = on_gpu(batch.to(torch.device("cuda")), 0.1)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
    gradients = {name: p.grad for name, p in on_gpu.named_parameters()}
    for name, parameter in on_cpu.named_parameters():
        gradient = gradients[name]
        assert gradient is not None
        torch.testing.assert_close(gradient.cpu(), parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_bfloat16_training_learns_its_batch() -> None:
    where = torch.device("cuda")
    torch.manual_seed(1)
    model = Transformer(SHAPE, 32, 32).to(where)
    optimizer = adam(model, OptimConfig(schedule="cosine", lr=0.003))
    gradients = FlatGradients(model)
    batch = collate(SRC, TGT).to(where)
    losses = []
    for group in optimizer.param_groups:
        group["lr"] = 0.003
    for _ in range(100):
        gradients.zero()
        with autocast(where, "bfloat16"):
            loss, _ = model(batch, 0.0)
        (loss / batch.num_labels).backward()
        optimizer.step()
        losses.append(float(loss) / batch.num_labels)
    assert losses[0] > 3.0  # about ln 32 before anything is learned
    assert losses[-1] < 0.1
