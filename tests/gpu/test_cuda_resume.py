"""On a GPU, whose numbers are read two updates late: a run that is stopped anywhere and resumed is the same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from harness import Running, copy_corpus, last_checkpoint, metrics, moments, tmt, weights, write_config


@pytest.fixture(scope="module")
def finished(gpu: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to, with an average of its weights; its configuration is beside it."""
    directory = tmp_path_factory.mktemp("resume")
    config = copy_corpus(directory, num_train=600)
    config["train"] |= {"max_steps": 400, "eval_steps": 150, "checkpoint_steps": 35, "log_steps": 4}
    config["train"] |= {"best_metric": "loss", "precision": "auto", "ema_decay": 0.99}
    path, run = write_config(directory / "config.yaml", config), directory / "run"
    tmt("train", path, "--output", run).ok()
    return run


def test_each_update_is_logged_once_however_late_it_is_read(finished: Path) -> None:
    steps = [record["step"] for record in metrics(finished) if record["kind"] == "train"]
    assert steps == list(range(4, 401, 4))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed_is_identical(number: signal.Signals, finished: Path, tmp_path: Path) -> None:
    path, run = finished.parent / "config.yaml", tmp_path / "run"
    process = Running("train", path, "--output", run)
    process.wait_until(
        lambda: (run / "metrics.jsonl").exists() and '"step": 60,' in (run / "metrics.jsonl").read_text()
    )
    process.signal(number)
    process.end()
    assert 35 <= int(last_checkpoint(run).name.removeprefix("step_")) < 400
    resumed = tmt("train", path, "--output", run, "--resume").ok()
    assert "warning" not in resumed.stderr
    assert last_checkpoint(run).name == last_checkpoint(finished).name == "step_00000400"
    assert weights(run) == weights(finished)
    assert moments(run) == moments(finished)
    assert metrics(run) == metrics(finished)
