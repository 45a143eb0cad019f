"""On a GPU, whose numbers are read two updates late: a run that is stopped anywhere and resumed is the same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from harness import Running, copy_corpus, last_checkpoint, metrics, moments, tmt, weights, write_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed_is_identical(number: signal.Signals, tmp_path: Path) -> None:
    config = copy_corpus(tmp_path, num_train=600)
    config["train"] |= {"max_steps": 400, "eval_steps": 150, "checkpoint_steps": 35, "log_steps": 4}
    config["train"] |= {"best_metric": "loss", "precision": "auto"}
    path, run, expected = write_config(tmp_path / "config.yaml", config), tmp_path / "run", tmp_path / "expected"
    tmt("train", path, "--output", expected).ok()
    # One record for every 4 updates, of just these, however late they are read.
    steps = [record["step"] for record in metrics(expected) if record["kind"] == "train"]
    assert steps == list(range(4, 401, 4))

    process = Running("train", path, "--output", run)
    process.wait_until(
        lambda: (run / "metrics.jsonl").exists() and '"step": 60,' in (run / "metrics.jsonl").read_text()
    )
    process.signal(number)
    process.end()
    assert 35 <= int(last_checkpoint(run).name.removeprefix("step_")) < 400
    resumed = tmt("train", path, "--output", run, "--resume").ok()
    assert "warning" not in resumed.stderr
    assert last_checkpoint(run).name == last_checkpoint(expected).name == "step_00000400"
    assert weights(run) == weights(expected)
    assert moments(run) == moments(expected)
    assert metrics(run) == metrics(expected)
