"""On a GPU: what a thread copies there from pinned memory is what was on the host, however late the copy comes."""

from __future__ import annotations

import numpy as np
import torch

from transformer_mt.model.layout import ROWS_MULTIPLE, Batch, collate
from transformer_mt.text.vocabulary import EOS_ID
from transformer_mt.training.feeding import one_ahead


def test_batches_arrive_whole_behind_other_work(device: torch.device) -> None:
    """Memory that is used again before its copy is done would give a batch the ids of a later one."""
    rng = np.random.default_rng(1)
    sides = [[[*rng.integers(4, 99, n), EOS_ID] for n in rng.integers(1, 60, 500)] for _ in range(40)]
    batches = [collate(ids, ids[::-1], ROWS_MULTIPLE) for ids in sides]
    if device.type == "cuda":
        x = torch.ones(4096, 4096, device=device)
        for _ in range(50):
            x = x @ x / 4096

    def begin() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)

    def prepare(batch: Batch) -> Batch:
        return batch.to(device)

    moved = list(one_ahead(iter(batches), prepare, begin))
    for found, batch in zip(moved, batches, strict=True):
        assert found.labels_N.device == device
        for a, b in (
            *((found.src_ids_P, batch.src_ids_P), (found.tgt_in_P, batch.tgt_in_P), (found.labels_N, batch.labels_N)),
            *((found.src.positions_P, batch.src.positions_P), (found.tgt.positions_P, batch.tgt.positions_P)),
            *((found.src.offsets, batch.src.offsets), (found.tgt.offsets, batch.tgt.offsets)),
        ):
            assert torch.equal(a.cpu(), b)
    for layout, host in ((moved[0].src, batches[0].src), (moved[0].tgt, batches[0].tgt)):  # made there, made here
        for there, here in ((layout.rows_BL, host.rows_BL), (layout.cells_N, host.cells_N)):
            assert there is not None and here is not None and torch.equal(there.cpu(), here)
