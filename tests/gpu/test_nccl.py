"""One rank under torchrun on one GPU: its sums go through NCCL, and it ends as it should, well or not."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from harness import TORCHRUN, copy_corpus, metrics, moments, tmt, weights, write_config

ONE_RANK = (*TORCHRUN, "1", "-m", "transformer_mt")
FAILING = (*TORCHRUN, "1", str(Path(__file__).parents[1] / "distributed" / "failing_rank.py"), "0", "25", "step")


def test_one_rank_trains_validates_saves_and_ends(gpu: torch.device, tmp_path: Path) -> None:
    """The same bytes as without torchrun: a sum over one rank is what was there."""
    config = copy_corpus(tmp_path)
    config["train"] |= {"precision": "bfloat16", "ema_decay": 0.99, "best_metric": "loss"}
    path = write_config(tmp_path / "config.yaml", config)
    alone, one = tmp_path / "alone", tmp_path / "one"
    tmt("train", path, "--output", alone).ok()
    done = tmt("train", path, "--output", one, launcher=ONE_RANK).ok()
    assert "done at step 40" in done.stderr and "destroy_process_group" not in done.stderr
    assert weights(one) == weights(alone)
    assert moments(one) == moments(alone)
    assert metrics(one) == metrics(alone)


def test_a_rank_that_fails_ends_at_once(gpu: torch.device, tmp_path: Path) -> None:
    """With sums in the GPU's queue; NCCL's own words do not come after its reason."""
    config = copy_corpus(tmp_path)
    config["data"]["valid"] = []
    began = time.monotonic()
    path = write_config(tmp_path / "config.yaml", config)
    done = tmt("train", path, "--output", tmp_path / "run", launcher=FAILING)
    assert done.status != 0
    assert time.monotonic() - began < 60
    assert "ZeroDivisionError: rank 0 failed on purpose" in done.stderr
    after = done.stderr.partition("failed on purpose")[2]
    assert "watchdog" not in after and "destroy_process_group" not in after
