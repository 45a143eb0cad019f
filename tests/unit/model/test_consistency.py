"""SimCut's loss against PyTorch's own functions, and the second pass of a model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transformer_mt.config.sections import ModelConfig
from transformer_mt.model import consistency as module
from transformer_mt.model.consistency import consistent_cross_entropy
from transformer_mt.model.kinds import new_model
from transformer_mt.model.layout import collate


def torchs(hidden_ND: Tensor, cut_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, smoothing: float) -> Tensor:
    logits = F.linear(hidden_ND, weight_VD)
    log_p, log_q = logits.log_softmax(-1), F.linear(cut_ND, weight_VD).log_softmax(-1)
    divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)  # KL(p || q)
    return F.cross_entropy(logits, labels_N, reduction="sum", label_smoothing=smoothing) + 3.0 * divergence


@pytest.mark.parametrize("rows", [1, 5, 17, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradients_are_those_of_torch(smoothing: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tail of rows that have no label, in chunks of any size; of 0.37 · loss: a gradient from above counts."""
    monkeypatch.setattr(module, "chunk_rows", lambda *_: rows)
    torch.manual_seed(1)
    hidden, cut = (torch.randn(21, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight, labels = torch.randn(7, 6, dtype=torch.float64, requires_grad=True), torch.randint(7, (17,))
    loss, nll = consistent_cross_entropy(hidden, cut, weight, labels, smoothing, consistency=3.0)
    expected = torchs(hidden[:17], cut[:17], weight, labels, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(nll, F.cross_entropy(F.linear(hidden[:17], weight), labels, reduction="sum"))
    inputs = (hidden, cut, weight)
    ours, theirs = torch.autograd.grad(0.37 * loss, inputs), torch.autograd.grad(0.37 * expected, inputs)
    for found, value in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_the_second_pass_lacks_some_tokens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"d_model": 8, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0.0}
    shape |= {"d_ff": 8, "num_heads": 2} if kind == "transformer" else {}
    torch.manual_seed(1)
    model = new_model(ModelConfig.model_validate({"kind": kind, **shape}), 30, 30)
    batch = collate([[5, 6, 7, 2]] * 3, [[8, 9, 2]] * 3)
    plain, nll = model(batch, 0.1)
    plain = plain.detach()
    # Nothing is cut out: both passes are the same, and nothing is added.
    monkeypatch.setattr(module, "CUT_OUT", 0.0)
    torch.testing.assert_close([part.detach() for part in model(batch, 0.1, 3.0)], [plain, nll])
    # All is: another loss, whose perplexity is that of the whole batch.
    monkeypatch.setattr(module, "CUT_OUT", 1.0)
    loss, same = model(batch, 0.1, 3.0)
    loss = loss.detach()
    assert float(loss) > float(plain) + 0.1
    torch.testing.assert_close(same, nll)
    # And so it is drawn: some of them, by PyTorch's generator.
    monkeypatch.setattr(module, "CUT_OUT", 0.3)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(model(batch, 0.1, 3.0)[0].detach()))
    assert losses[0] == losses[1] != losses[2] and float(plain) < losses[0] < float(loss) * 1.5
    torch.testing.assert_close([part.detach() for part in model(batch, 0.1)], [plain, nll])
