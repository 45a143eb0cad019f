"""The gradient of one update on one and two processes: this file is also their program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from harness import tmt_on_ranks
from safetensors.torch import load_file, save_file
from torch import Tensor

from transformer_mt.model.layout import collate
from transformer_mt.system.ranks import join
from transformer_mt.training.optim import FlatGradients

sys.path.append(str(Path(__file__).parents[1] / "unit" / "training"))
from test_accumulation import NUM_LABELS, SMOOTHING, SRC, TGT, TOLERANCES, assert_equal_in_norm, build_model, cut


def update(num_micro: int) -> dict[str, Tensor]:
    """Loss and gradient by type of number, as the training loop makes them, summed over the ranks of this process."""
    with join() as ranks:
        found: dict[str, Tensor] = {}
        for dtype in TOLERANCES:
            model, total = build_model(dtype), torch.zeros((), dtype=dtype)
            gradients = FlatGradients(model)
            gradients.zero()
            for micro in cut(ranks.num_ranks, num_micro)[ranks.rank]:
                loss, _ = model(collate([SRC[i] for i in micro], [TGT[i] for i in micro]), SMOOTHING)
                (loss / NUM_LABELS).backward()
                total += loss.detach()
            ranks.all_reduce_sum(gradients.buffer, total)
            found |= {f"{dtype} gradient": gradients.buffer, f"{dtype} loss": total}
        everyone = ranks.all_gather(found)
        for other in everyone:
            assert all(torch.equal(other[name], found[name]) for name in found), "the ranks' sums are not the same"
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return update(num_micro=1)


def test_two_ranks_times_two_micro_batches_have_one_gradient(whole: dict[str, Tensor], tmp_path: Path) -> None:
    output = tmp_path / "update"
    tmt_on_ranks(2, 2, output, launcher=(sys.executable, __file__)).ok()
    found = load_file(output)
    for dtype, tolerance in TOLERANCES.items():
        assert_equal_in_norm(found[f"{dtype} gradient"], whole[f"{dtype} gradient"])
        assert float(found[f"{dtype} loss"]) == pytest.approx(float(whole[f"{dtype} loss"]), rel=tolerance)


if __name__ == "__main__":
    made = update(int(sys.argv[1]))
    if os.environ["RANK"] == "0":
        save_file(made, sys.argv[2])
