"""A model that several test modules translate with."""

from __future__ import annotations

import pytest
from harness import Trained, copy_corpus, symbol_lines, tmt, write_config


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three checkpoints of a model that copies its source, trained in seconds."""
    directory = tmp_path_factory.mktemp("trained")
    config = copy_corpus(directory, num_train=2000)
    config["model"]["dropout"] = 0.0
    config["batch"] = {"max_tokens": 800}
    config["optim"] |= {"lr": 0.005, "warmup_steps": 50}
    # Bad enough to make mistakes, good enough that outputs differ with their inputs.
    config["train"] |= {"max_steps": 150, "eval_steps": 150, "checkpoint_steps": 50, "log_steps": 50}
    path, run = write_config(directory / "config.yaml", config), directory / "run"
    tmt("train", path, "--output", run).ok()
    return Trained(path, run, directory / "train.src")


@pytest.fixture(scope="session")
def sources() -> list[str]:
    return symbol_lines(40, seed=99, shortest=1, longest=20)
